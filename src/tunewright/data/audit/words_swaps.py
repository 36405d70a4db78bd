"""Words that have a counterpart of the other gender, and given names that nearly always are of one gender.

Names that are also words, months, places or surnames ("Will", "Grace", "April", "Jordan") are left out.
"""

from __future__ import annotations

from tunewright.data.audit.words_tone import words


def _paired(text: str) -> dict[str, str]:
    """Pairs of words between commas: the male one first."""
    return dict(tuple(pair.split()) for pair in text.split(","))  # type: ignore[misc]


NOUNS = _paired(
    """
    man woman, men women, boy girl, boys girls, male female, males females, father mother, fathers
    mothers, dad mom, daddy mommy, grandfather grandmother, grandpa grandma, son daughter, sons daughters,
    brother sister, brothers sisters, husband wife, husbands wives, uncle aunt, uncles aunts, nephew
    niece, boyfriend girlfriend, gentleman lady, gentlemen ladies, mr ms, sir madam, actor actress, actors
    actresses, waiter waitress, waiters waitresses, businessman businesswoman, policeman policewoman,
    salesman saleswoman, chairman chairwoman, spokesman spokeswoman, congressman congresswoman, schoolboy
    schoolgirl, widower widow, bridegroom bride, prince princess, himself herself, he she
    """
)
ONE_WAY = _paired("mrs mr, mum dad, mummy daddy")
NAMES = _paired(
    """
    James Emily, John Mary, Robert Patricia, Michael Jennifer, William Elizabeth, David Linda, Richard
    Susan, Joseph Jessica, Thomas Sarah, Daniel Karen, Matthew Lisa, Anthony Nancy, Steven Sandra, Paul
    Ashley, Andrew Emma, Kenneth Michelle, Kevin Amanda, Brian Melissa, George Deborah, Edward Stephanie,
    Ronald Rebecca, Timothy Laura, Jeffrey Helen, Ryan Samantha, Jacob Anna, Nicholas Christine, Eric
    Katherine, Jonathan Rachel, Stephen Catherine, Justin Maria, Benjamin Heather, Samuel Diane, Gregory
    Julie, Alexander Victoria, Patrick Kelly, Peter Hannah, Henry Alice, Zachary Olivia, Adam Sophia,
    Nathan Isabella, Liam Ella, Oliver Chloe, Ethan Natalie, Lucas Lucy, Mohammed Fatima, Ahmed Aisha,
    Omar Layla, Carlos Sofia, José Carmen, Luis Lucia, Raj Priya, Arjun Anjali, Hiroshi Yuki, Ivan Olga,
    Pierre Claire
    """
)

# An object pronoun is followed by one of these, a mark or the end; a possessive by a noun or an adjective.
AFTER_OBJECT = words(
    """
    a about above across after again against ago all alone along already also although always am an and
    another any anyone anything anywhere are around as aside at away back be because been before behind
    being beside between but by can could did do does down during each either else enough even ever every
    everyone everything everywhere exactly except few for forward from had happy has have he her here his how
    however i if immediately in inside instead into is it its just later left like lots many may me might
    more much must my near never next no nor not nothing now of off on once one only onto or our out
    outside over past quite rather really right she should since so some someone something somewhere soon
    still such than that the their them then there these they this those though through till to today
    together tomorrow tonight too toward towards twice under unless until up upon us very was we well were
    what when where whether which while who whom why will with within without would yesterday yet you your
    """
)
# Verbs with two objects: "asked her questions" gives somebody something, "met her friends" does not.
TWO_OBJECTS = words(
    """
    ask asked asking gave give given gives giving offer offered offering owe owed paid pay wish wished
    wishing
    """
)
GIVEN = words(
    """
    advice assistance cash change credit detail details directions feedback food happy help information
    instructions luck medicine money news permission questions science support time water
    """
)
# These end like an adverb, but go before the noun that a possessive belongs to.
ADJECTIVES_LY = words(
    """
    belly bodily costly daily deadly disorderly early elderly family friendly holy hourly likely lonely
    lovely monthly only silly ugly weekly yearly
    """
)
