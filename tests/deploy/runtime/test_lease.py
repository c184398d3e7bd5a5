"""Two controllers and one lease tag: who commands, whatever is lost, late or written by somebody else."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest

from deploy.runtime.lease import LeaseKeeper, PlantPulse

OURS = "tank-0a"


@dataclass
class Trial:
    """What came of two controllers on one tag: commands as (moment it lands, owner), reads that were held, claims."""

    commands: list[tuple[float, int]] = field(default_factory=list)
    taken_over: int = 0

    def overlaps(self) -> int:
        """Commands that land less than a period after one of the other controller."""
        order = sorted(self.commands)
        return sum(a[1] != b[1] and b[0] - a[0] < 1.0 for a, b in itertools.pairwise(order))


def trial(seed: int, *, late: float = 0.0, lost: float = 0.1, cycles: int = 40) -> Trial:
    """A random run of two controllers whose cycles are out of phase.

    Args:
        seed: of everything.
        late: share of the writes that land 1 to 15 periods late; the others take at most 0.95 of one.
        lost: share of the reads, and of the writes, that are lost.
        cycles: of each.
    """
    rng, order = random.Random(seed), itertools.count()
    keepers = [LeaseKeeper("A"), LeaseKeeper("B")]
    phase, wanted = (0.0, rng.random()), [True, True]
    queue: list[tuple[float, int, int, str | None]] = [
        (number + phase[who], next(order), who, None) for who in (0, 1) for number in range(cycles)
    ]
    heapq.heapify(queue)
    tag, done = "", Trial()
    while queue:
        now, _, who, landing = heapq.heappop(queue)
        if landing is not None:
            tag = landing
            continue
        wanted[who] ^= rng.random() < 0.05
        seen = None if rng.random() < lost else tag
        state = keepers[who].see(seen)
        text = keepers[who].text(wanted[who])
        # Nothing is written over a lease that was not read in this very cycle.
        assert text is None or seen is not None or state == "held"
        if seen is None and text is not None:
            text = None  # a cycle without an answer writes nothing, see `deploy.runtime.writing`
        takes = rng.uniform(1.0, 15.0) if rng.random() < late else rng.uniform(0.0, 0.95)
        if text is not None and rng.random() >= lost:
            done.taken_over += bool(text) and seen not in ("", None) and not seen.startswith(keepers[who].owner)
            heapq.heappush(queue, (now + takes, next(order), who, text))
        if state == "held" and seen is not None and wanted[who]:
            done.commands.append((now + takes, who))
    return done


def test_two_never_command_in_the_same_period_while_writes_land_within_one() -> None:
    trials = [trial(seed) for seed in range(1500)]
    assert sum(found.overlaps() for found in trials) == 0
    # Both had their turns, and took over from one another.
    assert all(sum(who == one for found in trials for _, who in found.commands) > 1000 for one in (0, 1))
    assert sum(len({who for _, who in found.commands}) == 2 for found in trials) > 100
    assert sum(found.taken_over for found in trials) > 0  # leases that had run out


def test_writes_that_land_periods_late_may_overlap_for_a_few_commands() -> None:
    """What the lease cannot prevent, so that nobody believes it does; see the module."""
    found = [trial(seed, late=0.05).overlaps() for seed in range(1500)]
    assert 0 < sum(count > 0 for count in found) < 150
    assert max(found) <= 6


def cycle(keeper: LeaseKeeper, tag: str, wanted: bool = True) -> str:
    """One cycle whose write lands at once; what the tag holds then."""
    keeper.see(tag)
    text = keeper.text(wanted)
    return tag if text is None else text


def held() -> tuple[LeaseKeeper, str]:
    keeper, tag = LeaseKeeper(OURS), ""
    for _ in range(3):
        tag = cycle(keeper, tag)
    assert keeper.state == "held"
    return keeper, tag


def test_a_free_lease_is_held_after_two_reads_and_renewed_every_cycle() -> None:
    keeper, tag, told = LeaseKeeper(OURS), "", []
    for _ in range(6):
        tag = cycle(keeper, tag)
        told.append((keeper.state, tag))
    assert told == [
        ("claimed", f"{OURS} 1"), ("claimed", f"{OURS} 1"), ("held", f"{OURS} 2"), ("held", f"{OURS} 3"),
        ("held", f"{OURS} 4"), ("held", f"{OURS} 5"),
    ]  # fmt: skip
    assert keeper.holder == OURS


def test_nothing_is_claimed_before_the_first_read_nor_after_a_lost_one() -> None:
    keeper = LeaseKeeper(OURS)
    assert (keeper.state, keeper.text(True)) == ("foreign", None)
    assert (keeper.see(None), keeper.text(True)) == ("foreign", None)
    assert keeper.see("") == "free"
    assert (keeper.see(None), keeper.text(True)) == ("foreign", None)
    assert keeper.see("") == "free"
    assert keeper.text(True) == f"{OURS} 1"
    assert (keeper.see(None), keeper.text(True)) == ("foreign", None)  # whether the claim arrived is not known


def test_of_two_claims_the_later_stays_and_the_other_sees_it() -> None:
    ours, theirs = LeaseKeeper(OURS), LeaseKeeper("tank-0b")
    for keeper in (ours, theirs):
        keeper.see("")
    tag = [keeper.text(True) for keeper in (ours, theirs)][-1]
    assert tag is not None
    for _ in range(4):
        tag = cycle(theirs, cycle(ours, tag))
    assert (ours.state, theirs.state) == ("foreign", "held")
    assert ours.holder == theirs.holder == "tank-0b"


@pytest.mark.parametrize("periods", [3, 5])
def test_a_crashed_owners_lease_runs_out_after_reads_without_a_change(periods: int) -> None:
    keeper, dead = LeaseKeeper(OURS, periods), "tank-0b 77"
    assert [keeper.see(dead) for _ in range(periods)] == ["foreign"] * periods
    assert [keeper.see(None) for _ in range(9)] == ["foreign"] * 9  # what was not read renews nothing, and ends nothing
    assert keeper.text(True) is None
    assert keeper.see(dead) == "free"
    assert keeper.text(True) == f"{OURS} 1"


def test_a_living_owners_lease_never_runs_out() -> None:
    keeper = LeaseKeeper(OURS)
    states = {keeper.see(f"tank-0b {cycle // 5}") for cycle in range(60)}  # every fifth renewal arrives
    assert states == {"foreign"}


@pytest.mark.parametrize(
    "text", ["operator", "tank-0b", "tank-0b -1", "tank 0b 1", " ", "tank-0b 1\n", "ü 1", "x" * 100_000, "\x00",
             "tank-0b 9999999999999999999", f"{OURS} x", f"{OURS}  1"]
)  # fmt: skip
def test_what_no_controller_wrote_is_somebody_elses_until_it_has_stood_still(text: str) -> None:
    keeper, _ = held()
    assert keeper.see(text) == "foreign"
    assert keeper.holder == "unknown"
    assert [keeper.see(text) for _ in range(5)] == ["foreign"] * 4 + ["free"]


@pytest.mark.parametrize("text", ["tank-0b 1", "operator"])
def test_whoever_reads_another_name_lets_go_at_once(text: str) -> None:
    keeper, _ = held()
    assert keeper.see(text) == "foreign"
    assert keeper.text(True) is None
    assert keeper.text(False) is None  # not its own to give back


def test_a_lease_that_was_cleared_is_gone_and_has_to_be_confirmed_anew() -> None:
    keeper, _ = held()
    assert keeper.see("") == "free"
    assert keeper.holder == ""
    tag = cycle(keeper, "")
    assert [keeper.see(tag) for _ in range(2)] == ["claimed", "held"]


def test_a_held_lease_outlives_lost_answers() -> None:
    keeper, tag = held()
    assert [keeper.see(None) for _ in range(9)] == ["held"] * 9
    assert keeper.see(tag) == "held"


def test_a_lease_is_given_back_once() -> None:
    keeper, tag = held()
    assert cycle(keeper, tag, wanted=False) == ""
    assert keeper.text(False) is None


def test_a_lease_is_not_given_back_unseen() -> None:
    """After lost answers it may be another's: clearing it would stop that one."""
    keeper, tag = held()
    keeper.see(None)
    assert keeper.text(False) is None
    assert keeper.see("tank-0b 1") == "foreign"
    assert keeper.text(False) is None
    keeper, tag = held()
    keeper.see(None)
    keeper.text(False)
    assert cycle(keeper, tag, wanted=False) == ""  # still the own one


def test_an_own_claim_that_lands_late_is_taken_back() -> None:
    keeper = LeaseKeeper(OURS)
    keeper.see("")
    claim = keeper.text(True)
    assert claim is not None
    keeper.see("")
    assert keeper.text(False) is None
    assert cycle(keeper, claim, wanted=False) == ""


@pytest.mark.parametrize("owner", ["", "two words", "x" * 81, "ü", "a\n"])
def test_a_name_that_cannot_be_read_back_is_no_owners(owner: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of an owner"):
        LeaseKeeper(owner)


def test_the_plants_pulse() -> None:
    pulse = PlantPulse(periods=3)
    assert not pulse.see(None)  # never seen
    assert [pulse.see(counter) for counter in (7, 7, 7, 7)] == [True, True, True, False]
    assert [pulse.see(counter) for counter in (8, None, None, None)] == [True, True, True, False]
    assert [pulse.see(counter) for counter in (8, 3)] == [False, True]  # back after a restart: a change is a change
