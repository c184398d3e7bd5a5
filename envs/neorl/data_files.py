"""The data files that NeoRL and NeoRL-2 published: names, addresses and md5 sums.

NeoRL (arXiv 2102.00714): the list is `neorl/data_map.json` of github.com/polixir/NeoRL. A name such as
`HalfCheetah-v3-medium-1000-train-noise.npz` says task, level of the behaviour policy, episodes and part; papers train
on 1000 episodes. NeoRL-2 (arXiv 2503.19267): `neorl2/envs/info.py` of github.com/polixir/NeoRL2. Neither list has
sizes.

An md5 sum shows that a file is the published one and came over whole; it is no protection against forgery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlkit.errors import ControlkitError, nearest

NEORL_ADDRESS = "http://datasets.polixir.site/v2"
NEORL2_ADDRESS = "http://datasets.polixir.site/neorl2"
LEVELS = ("low", "medium", "high")
# What a name without a number of episodes means: the published tables' training set, and a tenth of it to validate.
EPISODES = {"train": 1000, "val": 100}


@dataclass(frozen=True)
class ReleasedFile:
    """One published file.

    Attributes:
        name: of the file.
        url: where it was published.
        md5: of the file.
        earlier_cuts: md5 sums of other files that went round under this name.
    """

    name: str
    url: str
    md5: str
    earlier_cuts: tuple[str, ...] = ()


# task -> level -> md5 of the training sets of 100, 1000, 10000 episodes, then of the validation sets of 10, 100, 1000.
_SIZES = (("train", 100), ("train", 1000), ("train", 10000), ("val", 10), ("val", 100), ("val", 1000))
_NEORL: Mapping[str, Mapping[str, str]] = {
    "HalfCheetah-v3": {
        "low": """
            7df5c5fdf830263db1d7211efcdb17c1 5afc938d022d5ae6afed25397d457e8d 04b222566e3368b9555b8267ba110037
            5c114b0b8e73ea45b78511e608271b18 83853e69f81cca959eb315e399bd5df1 59509b399bdad9e0586a3a0690d45ac5""",
        "medium": """
            656f4475c29ec94b4b90cdaef5d08313 b13bd54a0466f86455939a1175762a2a 5d25fc95cf631947b18fcf879f0646fe
            2664eda2cdb71bea4030d02a59c3d150 d9cadeb60d5af33bea6998e2408441b5 62bde111637bfd481b4a1b249d4b63bf""",
        "high": """
            f0e9fe09344d7ef04765ce1eec6cc18a e253a2613de6acbbb05ad0441e4949b8 bd681966d9e2147461397cfb3692584d
            bf0b14233334a46d8741960c5af4281a 041bf5d267d14e7c238776cf9d7a4402 b8703ac4e2182b4aaba6bf55d2a8d368""",
    },
    "Hopper-v3": {
        "low": """
            c1c39051564790a1ac5c9f73160e2744 95a0c17014ba9fc45e739c820f3910ef 6cedfa7716b3fc34bd01f67fc67ea80e
            47240e2ec6e077d592d34f3749ee734e 5343d5dd355c3fc912ddfb58f3ba0e6e d843ca00665e4624b30e7fa235e627e3""",
        "medium": """
            46bf67196e1f42b1f345c1e15c20dd1f c54404ee2f9b3eeb9168b35d48dca341 29809d063ff991d34ed5c07e845741d0
            264ffb9bafc7781a90ac3de733f8ca04 cebff154828a047a5b76af176e4c8dce d0147c65b58c165b09634ddd33171ef1""",
        "high": """
            73fd09f821a822593dd7a0af72c334f4 91e711f30d4379cd627f63acfcfeb3c7 7da7428bc4d52bdc233b056554519414
            0d3373f4c1021a837a0b335d56f4cd3b 246295e60cc797ef184e7952a836502a 3a295e49b2568ee946d05e7eefdc9337""",
    },
    "Walker2d-v3": {
        "low": """
            85562d37c73143619e0081b8cb6734c3 3e88129538b30400b5b2b81d7f5a0044 4185d0e47f620e07a888f9a74ae2ba5e
            49eec69ae5f2ae176073ff35cfdd429a ebb4dd1b4313f546a7514c4f57b0e663 2d506bb17f8d061a894f37597a088e5e""",
        "medium": """
            6a9f76691df4a4f386c9cb5da564063b a93baf6c53b578cd8c2286ccc1f837d9 2a0efcc3b3e4f4afabdf2f3ec4869980
            953c3336eae683d562881891442b618c d0d902ec6c97550fd3c696d65277c867 4a71647e36989c9a64724f5e46987f20""",
        "high": """
            defc3ad1f4806179170a3baa4a4578e7 ad15293c78a204fa20bb05e5206d0cb4 f762736cb69fdf22fad8754f6bb8fedd
            7f493ceb445c8bd5f4d3dbe04f5b5321 eaa1561773fa5bb697239b4179f308ad 7068ab95830b98e81b9ced79608f9218""",
    },
    "ib": {
        "low": """
            d0b4fa78b27dbf86411b3b41de20d71a b1f1bc865c7910ff87e9277d1b23e745 bd5a44b98ea574517cff50fa38bcae7a
            22920bc28f9c81c60321ec3f2fc7b71a 37b4f544ed0deb76043d67ed644ad2e7 621805e19e95467ef4bf82b946ab35b5""",
        "medium": """
            afd8973406bc7401ce77d9b0b4695947 8aeededf5c3baf3eed30f6ca8080fe02 7f601ab6adae6790635801812aa66b7f
            eb146a26eef350ad116901bc36a1d833 27839d327ac8a933a0d0a91ed567935b deed6007666f35af468cc22d9026bb1d""",
        "high": """
            1e7750ef0e8bac223ed56f47f8429d87 bb1e5e75e15c805cda8c3270c10b9294 38f34227286d47e8a4aa723b82d583c2
            dbd918c5c68ad16d51c279516467de8f 40ec5ab4def7879ddca1eb79bbf55f00 7cd0589aadc7202c9e1d38171b6ddd8d""",
    },
}
# task -> md5 of the training set and of the validation set
_NEORL2: Mapping[str, tuple[str, str]] = {
    "DMSD": ("88dfa39aa18904e809056b51c2e6319b", "be6c39c0e73c17029206e714068f26b7"),
    "Fusion": ("98979f97e0b59dd46bbb9237176a68ab", "9baa5556fac98b86ab9b58040da17d86"),
    "Pipeline": ("59902b333be6edb9252acfc2302cc1ed", "c502f529db1de55ebf37d63e1defca56"),
    "RandomFrictionHopper": ("3ef2c41483689729d3b5a3aef3b7b8f7", "2628f354222de37803451c63e84a1269"),
    "RocketRecovery": ("b1a7bf1ec16cfef390b6b1cec2b13ddc", "0b25bd998e92b4f808f8ee5207ce06dd"),
    "SafetyHalfCheetah": ("c35efec4a25fb45837487ba00f74e1ed", "da65ba51a4cc17370572da3c801d228b"),
    "Simglucose": ("6195a3634379f576958440b7e0c8fc53", "6df907556cbc96002757f6d652be9d92"),
}
# Under Pipeline's names an earlier cut goes round; its mean return is -421, the released one's 429.
_EARLIER_CUTS: Mapping[str, tuple[str, ...]] = {
    "Pipeline-train.npz": ("c8b48b757418b88437966932e1a7ca95",),
    "Pipeline-val.npz": ("753436460311bc92ae771dff23342af5",),
}
# What the tasks are called on the command line; the plant files have the same names.
_TASK_NAMES: Mapping[str, str] = {
    "HalfCheetah-v3": "halfcheetah",
    "Hopper-v3": "hopper",
    "Walker2d-v3": "walker2d",
    "ib": "industrial",
    "DMSD": "dmsd",
    "Fusion": "fusion",
    "Pipeline": "pipeline",
    "RandomFrictionHopper": "random-friction-hopper",
    "RocketRecovery": "rocket-recovery",
    "SafetyHalfCheetah": "safety-halfcheetah",
    "Simglucose": "simglucose",
}


def _neorl_files() -> dict[str, ReleasedFile]:
    files: dict[str, ReleasedFile] = {}
    for task, levels in _NEORL.items():
        noise = "" if task == "ib" else "-noise"
        for level, sums in levels.items():
            for (part, episodes), md5 in zip(_SIZES, sums.split(), strict=True):
                name = f"{task}-{level}-{episodes}-{part}{noise}.npz"
                file = ReleasedFile(name, f"{NEORL_ADDRESS}/{task}/{name}", md5)
                short = f"neorl/{_TASK_NAMES[task]}-{level}"
                suffix = "" if part == "train" else "-val"
                files[f"{short}-{episodes}{suffix}"] = file
                if episodes == EPISODES[part]:
                    files[short + suffix] = file
    return files


def _neorl2_files() -> dict[str, ReleasedFile]:
    files: dict[str, ReleasedFile] = {}
    for task, sums in _NEORL2.items():
        for part, suffix, md5 in zip(("train", "val"), ("", "-val"), sums, strict=True):
            name = f"{task}-{part}.npz"
            file = ReleasedFile(name, f"{NEORL2_ADDRESS}/{task}/{name}", md5, _EARLIER_CUTS.get(name, ()))
            files[f"neorl2/{_TASK_NAMES[task]}{suffix}"] = file
    return files


# By the names of the command line: neorl/halfcheetah-medium (1000 episodes), neorl/halfcheetah-medium-100,
# neorl/halfcheetah-medium-val, neorl2/pipeline, neorl2/pipeline-val.
RELEASED: Mapping[str, ReleasedFile] = _neorl_files() | _neorl2_files()
_BY_FILE: Mapping[str, ReleasedFile] = {file.name: file for file in RELEASED.values()}


def get_released(name: str) -> ReleasedFile:
    """A published file by the name that the command line gives it.

    Raises:
        ControlkitError: there is no such file; names the nearest.
    """
    if name not in RELEASED:
        raise ControlkitError(f"no data set '{name}' is published", cure=nearest(name, RELEASED))
    return RELEASED[name]


def released_as(file_name: str) -> ReleasedFile | None:
    """The published file of this name; None where there is none."""
    return _BY_FILE.get(file_name)
