"""From what a plant shows to what the controller is fed: the alignment of ingest, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlkit.online import OnlineAligner, OnlineCommands
from controlkit.spec import PlantSpec
from deploy.runtime.clock import NS
from deploy.runtime.plant import PlantReading, Sample

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """What goes into one step; n measured tags, m commands, in the manifest's order.

    Attributes:
        obs, ok, age_s: (n,) value, usable, age in seconds.
        act_prev: (m,) the command in force until now; NaN where it is not known.
        notes: name -> what was wrong with time stamps, for people to read.
    """

    obs: Float32
    ok: npt.NDArray[np.bool_]
    age_s: Float32
    act_prev: Float32
    notes: Mapping[str, str] = field(default_factory=dict)


class Sensing:
    """Aligns readings; one for as long as the clock is not anchored anew."""

    def __init__(self, spec: PlantSpec) -> None:
        self._spec, self._rules = spec, spec.log
        self._aligner, self._commands = OnlineAligner(spec), OnlineCommands(spec)
        self._pushed: dict[str, Sample] = {}
        self._ahead_ns, self._future_ns = round(spec.period_s * NS), round(spec.log.future_s * NS)

    def take(self, reading: PlantReading, now_ns: int, *, commanding: bool) -> Inputs:
        """One cycle.

        Args:
            reading: what the plant showed.
            now_ns: the sample time.
            commanding: whether this controller commands. If so the last echo is what the next command is limited
                about; if not, it is the mean over the period, as in a log, that tells what moved the plant.
        """
        notes: dict[str, str] = {}
        for tag in self._spec.frame_tags:
            sample = reading.samples.get(tag)
            if sample is None or sample == self._pushed.get(tag):
                continue
            if sample.time_ns is None:
                notes.setdefault("source_time", f"'{tag}' comes without a source time and is not used")
                continue
            if not self._believed(tag, sample.time_ns, now_ns, notes):
                continue
            self._pushed[tag] = sample
            good, doubtful = self._worth(sample)
            self._aligner.push(tag, sample.time_ns, sample.value, good, doubtful)
        for tag in self._spec.action_tags:
            sample = reading.commands.get(tag)
            if sample is None or sample == self._pushed.get(tag):
                continue
            # A command without a stamp is in force all the same.
            stamp = now_ns if sample.time_ns is None else sample.time_ns
            if not self._believed(tag, stamp, now_ns, notes):
                continue
            self._pushed[tag] = sample
            good, doubtful = self._worth(sample)
            self._commands.push(tag, stamp, sample.value, good, doubtful)
        obs, ok, age = self._aligner.frame(now_ns)
        mean, _, known = self._commands.over_period(now_ns)
        act_prev = np.where(known, mean, np.float32(np.nan)).astype(np.float32)
        if commanding:
            act_prev = self.echo(reading)
        return Inputs(obs, ok, age, act_prev, notes)

    def echo(self, reading: PlantReading) -> Float32:
        """(m,) the commands as echoed in this very reading; NaN where the plant did not say."""
        values = []
        for tag in self._spec.action_tags:
            sample = reading.commands.get(tag)
            values.append(sample.value if sample is not None and self._worth(sample)[0] else np.nan)
        with np.errstate(over="ignore"):
            return np.array(values, dtype=np.float64).astype(np.float32)

    def commanded(self, commands: Mapping[str, float], now_ns: int) -> None:
        """Notes commands that the plant confirmed: in force from the sample time on, whatever the write took."""
        for tag, value in commands.items():
            self._commands.push(tag, now_ns, value)

    def plant_mode(self, reading: PlantReading) -> str:
        """Why the plant's own mode forbids a controller; empty if it does not."""
        for tag, description in self._spec.tags.items():
            if description.role != "mode":
                continue
            sample = reading.modes.get(tag)
            if sample is None or not self._worth(sample)[0]:
                return f"the plant does not say its mode ('{tag}')"
            if sample.value not in description.accept:
                return f"the plant's mode '{tag}' is {sample.value:g}"
        return ""

    def _believed(self, tag: str, stamp: int, now_ns: int, notes: dict[str, str]) -> bool:
        """Whether a stamp may be: one too far ahead may not now, but perhaps when its time has come."""
        if stamp > now_ns + self._ahead_ns:
            seconds = (stamp - now_ns) / NS
            notes.setdefault("source_time", f"'{tag}' is stamped {seconds:.1f} s ahead of this clock")
        return stamp <= now_ns + self._future_ns

    def _worth(self, sample: Sample) -> tuple[bool, bool]:
        """Whether a sample counts as good, and as doubtful, by the plant file's rules for its log."""
        if sample.quality == "uncertain":
            return self._rules.uncertain == "use", True
        if sample.quality == "substituted":
            return self._rules.substituted == "use", True
        return sample.quality == "good", False
