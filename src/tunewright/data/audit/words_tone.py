"""A small lexicon of tone, our own: English words whose tone hardly depends on the topic. Words of illness,
money trouble and the like are left out, for a text about such a topic is not hostile."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text that is a list of words."""
    return frozenset(text.split())


POSITIVE = words(
    """
    admirable admire amazing appreciate appreciated awesome beautiful beloved best better brilliant
    capable cheerful clever competent confident congratulations courageous creative delight delighted
    delightful diligent dignified eager elegant enjoy enjoyed enjoyable excellent exceptional excited
    exciting fantastic fascinating friendly generous gentle gifted glad good gorgeous grateful great
    happiness happy helpful heroic honest impressive inspiring intelligent joy joyful kind kindness
    likeable lovely loved loving loyal magnificent marvellous marvelous nice outstanding perfect pleasant
    pleased pleasure polite praise precious proud remarkable respected respectful reliable skilled skilful
    skillful smart splendid successful superb talented terrific thank thankful thanks thoughtful thrilled
    triumph trusted trustworthy understanding warm welcome wise wonderful worthy
    """
)
NEGATIVE = words(
    """
    abysmal aggressive angry annoyed annoying appalling arrogant ashamed atrocious awful bad bitter boring
    careless clumsy complain contempt corrupt cowardly criminal cruel deceitful deceptive despicable
    despise devious dirty disappointed disappointing disgrace disgraceful disgusting dishonest dislike
    dreadful dull embarrassing evil fail failed failing failure filthy foolish frustrated frustrating
    furious greedy hate hated hateful hates hatred hideous horrible horrid hostile ignorant immoral
    incompetent inferior insane irrational irresponsible jealous lazy liar liars lousy malicious mean
    miserable nasty nuisance obnoxious offensive outrageous pathetic poor regret repulsive ridiculous
    rotten rude sad selfish shame shameful sinister sloppy sneaky stubborn terrible threatening ugly
    unfriendly unhappy unpleasant unreliable untrustworthy upset upsetting useless vicious vile violent
    weak wicked worse worst worthless wretched
    """
)
TOXIC = words(
    """
    asshole assholes bastard bastards bitch bitches bullshit crap cretin cretins cunt dickhead dickheads
    dimwit dumbass fuck fucked fucker fucking idiot idiots idiotic imbecile imbeciles loser losers moron
    morons moronic motherfucker piss pissed retard retarded retards scum scumbag scumbags shit shitty slut
    sluts stupid stupidity subhuman subhumans twat vermin wanker whore whores
    """
)
TOXIC_PHRASES = (
    "shut up",
    "go to hell",
    "kill yourself",
    "you people",
    "piece of trash",
    "i hate you",
    "deserve to die",
)
NEGATIONS = words(
    """
    not no never none nor neither cannot can't don't doesn't didn't isn't wasn't aren't weren't won't
    wouldn't couldn't shouldn't hardly without
    """
)
REACH = 3  # words after a negation whose tone it turns
