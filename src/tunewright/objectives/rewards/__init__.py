"""Rewards: how good is a sampled answer? Plain functions, weighted and added up.

    >>> with make_rewards(["numeric", {"name": "length", "most": 50, "weight": 0.1}]) as rewards:
    ...     scored = rewards.score(["2+2?"], ["#### 4"], [{"answer": "#### 4"}])
    >>> scored.total, scored.parts
    ([1.1], {'numeric': [1.0], 'length': [1.0]})

To add one: write a short function ``(prompt, answer, example) -> float``; beside it a ``RewardSpec`` that
holds its options and whose ``make`` returns ``Each(function)``; name it in ``base.REWARDS`` (or, from another
package, in the entry-point group ``tunewright.reward``); test it against values worked by hand. A function
that can run away on a hostile answer belongs into ``inside/``, where time and memory are limited.
"""

from tunewright.objectives.rewards.base import (
    REWARDS,
    RewardSet,
    Scored,
    constant_groups,
    make_rewards,
    reward_specs,
)
from tunewright.objectives.rewards.spec import Reward, RewardError, RewardSpec, Row

__all__ = [
    "REWARDS",
    "Reward",
    "RewardError",
    "RewardSet",
    "RewardSpec",
    "Row",
    "Scored",
    "constant_groups",
    "make_rewards",
    "reward_specs",
]
