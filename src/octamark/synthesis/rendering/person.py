"""What a rendered picture shows: one ``Person`` for a seed, plain numbers and names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from octamark.synthesis.rendering.assets import Assets

Colour = tuple[float, float, float]

SKIN_TONES: tuple[Colour, ...] = (
    (0.72, 0.50, 0.41), (0.66, 0.44, 0.34), (0.58, 0.37, 0.27), (0.47, 0.28, 0.19), (0.34, 0.19, 0.12),
    (0.22, 0.115, 0.07), (0.12, 0.062, 0.040),
)  # fmt: skip
"""Mean linear albedo of facial skin, from pale to very dark; a person's tone lies between two neighbours."""

IRIS: dict[str, tuple[Colour, Colour]] = {
    "black": ((0.018, 0.010, 0.006), (0.035, 0.018, 0.010)),
    "brown": ((0.045, 0.020, 0.009), (0.10, 0.045, 0.018)),
    "hazel": ((0.10, 0.055, 0.020), (0.11, 0.10, 0.045)),
    "green": ((0.10, 0.085, 0.030), (0.085, 0.12, 0.075)),
    "grey": ((0.12, 0.12, 0.11), (0.13, 0.16, 0.18)),
    "blue": ((0.10, 0.13, 0.15), (0.065, 0.13, 0.22)),
}
"""Linear colours of irises: around the pupil, and outside."""

HAIR: dict[str, Colour] = {
    "black": (0.010, 0.008, 0.008),
    "dark brown": (0.032, 0.018, 0.011),
    "brown": (0.075, 0.040, 0.022),
    "light brown": (0.16, 0.095, 0.050),
    "blond": (0.36, 0.25, 0.13),
    "red": (0.20, 0.058, 0.018),
    "grey": (0.30, 0.29, 0.28),
    "white": (0.58, 0.57, 0.55),
    "dyed blue": (0.04, 0.08, 0.30),
    "dyed pink": (0.50, 0.10, 0.25),
}
"""Linear colours of hair."""

SEX_MEAN = {"female": 1.15, "male": -0.55}
"""Mean weight of the head model's first identity shape, which makes heads smaller and jaws narrower: women's are so."""

HAIR_STYLES = (
    "bald", "buzz", "short", "crop", "side", "back", "curly", "afro", "bob", "long", "wavy", "tied", "bun", "ringed",
)  # fmt: skip

MASK_COLOURS: tuple[Colour, ...] = ((0.30, 0.50, 0.62), (0.75, 0.75, 0.73), (0.02, 0.02, 0.02), (0.55, 0.70, 0.74))
"""Linear colours of surgical and everyday masks."""

SMILE = ("mouthSmile", "cheekSquint", "mouthDimple", "mouthUpperUp")
PAIRS = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekRaiser", "cheekSquint", "eyeSquint", "eyeWide",
    "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp",
    "noseSneer",
)  # fmt: skip
SINGLES = (
    "jawForward", "jawLeft", "jawRight", "mouthFunnel", "mouthLeft", "mouthRight", "mouthPucker", "mouthRollLower",
    "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One picture's content; lengths in centimetres of the head model, angles in degrees, colours linear RGB.

    Attributes:
        seed: of everything below, and of strands, textures and background.
        identity: 100 weights of the head model's identity shapes.
        ages: weights of shapes of sex, age and ancestry.
        expression: weights of the head model's expression shapes.
        gaze: (yaw, pitch) of the eyes, to the person's left and up.
        yaw, pitch, roll: of the head against the camera: to the person's left, up, to the right shoulder.
        body: (yaw, pitch, roll) of the head on the body.
        distance: of the camera from the head.
        options: names and numbers of skin, hair, clothes, light, things in front of the face, and background.
    """

    seed: int
    identity: tuple[float, ...]
    ages: dict[str, float]
    expression: dict[str, float]
    gaze: tuple[float, float]
    yaw: float
    pitch: float
    roll: float
    body: tuple[float, float, float]
    distance: float
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)


def sample_person(seed: int, assets: Assets) -> Person:
    """The person of a seed; the same for every machine and layout."""
    rng = np.random.default_rng([seed, 1])
    female = bool(rng.random() < 0.5)
    age = float(rng.choice([0.0, rng.uniform(0, 0.5), rng.uniform(0.5, 1.15)], p=[0.35, 0.35, 0.30]))
    child = float(rng.uniform(0.45, 1.0)) if rng.random() < 0.12 else 0.0
    age = 0.0 if child else age
    ancestry = rng.dirichlet((0.35, 0.35, 0.35))
    sex = "female" if female else "male"
    ages = {}
    for name, share in zip(("african", "asian", "caucasian"), ancestry, strict=True):
        for kind, weight in (("young", 1 - min(age, 1) - child), ("old", age)):
            if share * weight > 0.01:
                ages[f"{name}-{sex}-{kind}"] = float(0.9 * share * weight)
        if share * child > 0.01:  # MakeHuman's boys are small men; its girls have the proportions of children
            ages[f"{name}-female-child"] = float(0.95 * share * child)
    if child > 0.75:
        ages["caucasian-female-baby"] = float(rng.uniform(0.05, 0.28))
    identity = np.clip(rng.normal(0, 0.95 if not (female or child) else 0.8, 100), -2.6, 2.6)
    identity[0] = rng.normal(SEX_MEAN["female" if female or child else "male"], 0.6)
    ages |= _traits(rng, female, age, child, float(ancestry[1]))
    yaw, pitch, roll = _pose(rng)
    options = _options(rng, assets, female, age, child, ancestry, yaw)
    return Person(
        seed=seed,
        identity=tuple(np.round(identity, 4).tolist()),
        ages={name: round(weight, 4) for name, weight in ages.items()},
        expression={name: round(weight, 3) for name, weight in _expression(rng).items()},
        gaze=_gaze(rng, yaw, pitch),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        body=(float(rng.normal(0, 16)), float(rng.normal(0, 9)), float(rng.normal(0, 5))),
        distance=float(np.exp(rng.uniform(np.log(38), np.log(260)))),
        options=options,
    )


def _traits(rng: np.random.Generator, female: bool, age: float, child: float, asian: float) -> dict[str, float]:
    """Weights of the shapes of single traits: weight, age, and what tells women's faces from men's."""
    weights: dict[str, float] = {}
    build = float(rng.normal(0.0 if child else 0.1, 0.42))
    if build > 0:
        weights["fat"] = min(build, 1.2)
        weights["double chin"] = max(0.0, min(build - 0.3 + 0.3 * age, 1.0)) if not child else 0.0
    else:
        weights["thin"] = min(-build, 0.9) * (0.4 if child else 1.0)
        weights["hollow cheeks"] = float(rng.uniform(0, 0.6)) * min(-build, 0.9) * (not child)
    if child:
        weights["full cheeks"] = float(rng.uniform(0.1, 0.6))
        weights["small nose"] = float(rng.uniform(0.2, 0.8))
    elif female:
        weights["full lips"] = float(rng.uniform(0.0, 0.7)) * (1 - 0.6 * min(age, 1))
        weights["narrow chin"] = float(rng.uniform(0.0, 0.9))
        weights["small nose"] = float(rng.uniform(0.0, 0.7))
    elif rng.random() < 0.4:
        weights["wide chin"] = float(rng.uniform(0.2, 1.0))
    if age > 0.3:
        for name in ("aged", "eye bags", "sagging cheeks", "hooded lids", "thin lips"):
            weights[name] = float(rng.uniform(0.2, 1.0)) * min(age, 1.0)
    if rng.random() < 0.5:
        form = str(rng.choice(["round head", "oval head", "square head"], p=[0.4, 0.4, 0.2]))
        weights[form] = float(rng.uniform(0.1, 0.7)) * (0.5 if form == "square head" and female else 1.0)
    if asian > 0.4:
        weights["epicanthus"] = float(rng.uniform(0.2, 0.9)) * asian
    return {name: weight for name, weight in weights.items() if weight > 0.02}


def _pose(rng: np.random.Generator) -> tuple[float, float, float]:
    kind = rng.random()
    if kind < 0.40:
        yaw = rng.normal(0, 16)
    elif kind < 0.75:
        yaw = rng.uniform(-60, 60)
    else:
        yaw = rng.choice([-1, 1]) * rng.uniform(50, 108)
    pitch = rng.normal(0, 10) if rng.random() < 0.7 else rng.uniform(-40, 40)
    roll = rng.normal(0, 9) if rng.random() < 0.8 else rng.uniform(-50, 50)
    return round(float(yaw), 2), round(float(pitch), 2), round(float(roll), 2)


def _gaze(rng: np.random.Generator, yaw: float, pitch: float) -> tuple[float, float]:
    if rng.random() < 0.68:  # into the camera, as far as eyes turn
        return float(np.clip(-yaw + rng.normal(0, 3), -32, 32)), float(np.clip(-pitch + rng.normal(0, 3), -22, 20))
    return float(np.clip(rng.normal(0, 13), -34, 34)), float(np.clip(rng.normal(-2, 8), -25, 20))


def _expression(rng: np.random.Generator) -> dict[str, float]:
    weights: dict[str, float] = {}

    def both(name: str, weight: float, asymmetry: float = 0.25) -> None:
        shift = rng.normal(0, asymmetry)
        for side, sign in (("L", 1), ("R", -1)):
            value = float(np.clip(weight * (1 + sign * shift), 0, 1))
            weights[f"{name}_{side}"] = max(weights.get(f"{name}_{side}", 0.0), value)

    kind = rng.choice(
        ["neutral", "smile", "speech", "random", "strong", "shout"], p=[0.27, 0.38, 0.10, 0.12, 0.09, 0.04]
    )
    if kind == "smile":
        strength = rng.uniform(0.3, 1.0)
        for name in SMILE:
            both(
                name,
                strength
                * rng.uniform(0.3 if name != "mouthSmile" else 0.85, 1.0)
                * {"mouthUpperUp": 0.5, "cheekSquint": 0.6}.get(name, 1.0),
                0.12,
            )
        both("eyeSquint", rng.uniform(0, 0.25) * strength, 0.12)
        if rng.random() < 0.68:  # the teeth show
            both("mouthSmile", rng.uniform(0.6, 1.0), 0.12)
            both("mouthUpperUp", rng.uniform(0.3, 0.7), 0.12)
            both("mouthLowerDown", rng.uniform(0.1, 0.55), 0.12)
            weights["jawOpen"] = float(rng.uniform(0.0, 0.12) if rng.random() < 0.75 else rng.uniform(0.12, 0.4))
        else:
            for side in "LR":
                weights[f"mouthUpperUp_{side}"] = 0.0
    elif kind == "speech":
        weights["jawOpen"] = float(rng.uniform(0.05, 0.5))
        shape = rng.choice(
            ["mouthFunnel", "mouthPucker", "mouthStretch", "mouthClose", "mouthUpperUp", "mouthLowerDown"]
        )
        if shape in ("mouthFunnel", "mouthPucker"):
            weights[str(shape)] = float(rng.uniform(0.2, 0.9))
        elif shape == "mouthClose":
            weights["mouthClose"] = weights["jawOpen"] * float(rng.uniform(0.5, 1.0))
        else:
            both(str(shape), rng.uniform(0.2, 0.8))
    elif kind in ("random", "strong"):
        few, strength = (3, 0.55) if kind == "random" else (6, 1.0)
        for name in rng.choice(PAIRS, few, replace=False):
            both(str(name), rng.uniform(0.2, 1.0) * strength, 0.45)
        for name in rng.choice(SINGLES, 2, replace=False):
            weights[str(name)] = float(rng.uniform(0, 0.8) * strength)
        weights["jawOpen"] = float(rng.uniform(0, 0.6) * (rng.random() < 0.35))
    elif kind == "shout":
        weights["jawOpen"] = float(rng.uniform(0.5, 1.0))
        both("browDown", rng.uniform(0, 1))
        both("mouthUpperUp", rng.uniform(0, 0.8))
        both("mouthStretch", rng.uniform(0, 0.6))
        both("eyeSquint", rng.uniform(0, 0.7))
    if rng.random() < 0.35:
        name = str(rng.choice(["browInnerUp", "browOuterUp", "browDown"], p=[0.3, 0.3, 0.4]))
        both(name, rng.uniform(0.1, 0.9) ** 2, 0.3)
    lids = rng.random()
    if lids < 0.80:
        blink = abs(rng.normal(0, 0.08))
    elif lids < 0.92:
        blink = rng.uniform(0.15, 0.85)
    else:
        blink = rng.uniform(0.92, 1.1)
    weights["eyeBlink_L"] = weights["eyeBlink_R"] = float(blink)
    if rng.random() < 0.04:
        weights[f"eyeBlink_{rng.choice(['L', 'R'])}"] = float(rng.uniform(0.7, 1.0))
    if blink > 0.5:
        for side in "LR":
            weights[f"eyeWide_{side}"] = 0.0
    for name in ("PupilDilate_L", "PupilDilate_R"):
        weights.pop(name, None)
    return {name: weight for name, weight in weights.items() if weight > 0.004}


def _pick(rng: np.random.Generator, names: dict[str, float]) -> str:
    shares = np.array(list(names.values()), np.float64)
    return str(rng.choice(list(names), p=shares / shares.sum()))


def _options(
    rng: np.random.Generator,
    assets: Assets,
    female: bool,
    age: float,
    child: float,
    ancestry: np.ndarray[Any, np.dtype[np.float64]],
    yaw: float,
) -> dict[str, Any]:
    african, asian, european = ancestry
    tone = float(np.clip(rng.normal(5.0 * african + 1.9 * asian + 0.8 * european, 0.8), 0, len(SKIN_TONES) - 1))
    if rng.random() < 0.15:
        tone = float(rng.uniform(0, len(SKIN_TONES) - 1))
    skins = assets.names("mh/skins", ".jpg")
    fitting = [name for name in skins if ("female" in name) == female]
    if age > 0.6:
        fitting = [name for name in fitting if not name.startswith("young")] or fitting
    elif age < 0.3:
        fitting = [name for name in fitting if name.startswith("young")] or fitting
    if tone < 3.0 or child:  # a dark texture made pale shows blotches
        fitting = [name for name in fitting if "dark" not in name]
    dark_eyes = tone > 1.6 or asian > 0.5
    iris = _pick(
        rng,
        {"black": 2, "brown": 2, "hazel": 0.2}
        if dark_eyes
        else {"black": 0.3, "brown": 1.5, "hazel": 1, "green": 0.7, "grey": 0.7, "blue": 1.6},
    )
    natural = (
        {"black": 3.0, "dark brown": 1.5}
        if dark_eyes
        else {"black": 0.4, "dark brown": 1.6, "brown": 1.6, "light brown": 1.0, "blond": 1.1, "red": 0.4}
    )
    hair = _pick(rng, natural)
    brow = hair
    if age > 0.35 and rng.random() < min(0.85, age):
        hair = _pick(rng, {"grey": 1.3, "white": 1.0})
        brow = hair if rng.random() < 0.7 else brow
    elif not child and rng.random() < (0.25 if female else 0.04):
        hair = _pick(rng, {"brown": 4, "light brown": 3, "blond": 2, "red": 0.8, "dyed blue": 0.3, "dyed pink": 0.3})
    if female:
        styles = {
            "long": 4.0,
            "wavy": 3.4,
            "bob": 2.4,
            "tied": 1.0,
            "bun": 0.6,
            "short": 0.25 + 0.9 * age,
            "side": 0.3 + 0.6 * age,
            "afro": 0.1 + 2 * african,
            "curly": 0.5 + african,
            "buzz": 0.08,
        }
    else:
        styles = {
            "short": 2.5,
            "crop": 1.6,
            "side": 1.8,
            "back": 1.0,
            "buzz": 1.2 + african,
            "bald": 0.5 + 0.9 * age,
            "curly": 0.7,
            "afro": 0.2 + african,
            "long": 0.25,
            "wavy": 0.2,
            "tied": 0.15,
            "ringed": 0.5 + 1.5 * age,
        }
    if child:
        styles.pop("bald", None)
        styles.pop("ringed", None)
    beard = "none"
    if not female and not child and rng.random() < 0.55:
        beard = _pick(rng, {"stubble": 2.2, "short": 1.2, "full": 1.0, "moustache": 0.7, "goatee": 0.8, "long": 0.08})
    things: dict[str, Any] = {}
    if rng.random() < 0.24:
        things["glasses"] = {
            "width": float(rng.uniform(0.85, 1.15)),
            "height": float(rng.uniform(0.75, 1.25)),
            "square": float(rng.uniform(1.8, 6.0)),
            "rim": float(rng.choice([0.06, 0.10, 0.16, 0.24], p=[0.35, 0.3, 0.2, 0.15])),
            "colour": _random_dark(rng),
            "lens": float(rng.uniform(0.75, 0.97)) if rng.random() < 0.3 else float(rng.uniform(0.03, 0.12)),
            "tint": _random_dark(rng),
            "down": float(rng.uniform(-0.2, 0.8)) if rng.random() < 0.85 else float(rng.uniform(0.8, 2.2)),
        }
    if rng.random() < 0.14:
        hats = {
            "beanie": 1.2,
            "cap": 1.5,
            "band": 0.6,
            "scarf": 1.2 if female else 0.15,
            "hood": 0.5,
            "fedora": 0.7,
            "fedora_cocked": 0.3,
            "helmet": 0.4,
        }
        hat = _pick(rng, hats)
        things["hat"] = {
            "kind": hat,
            "colour": _random_colour(rng),
            "lift": float(rng.uniform(0.4, 1.0) if hat == "beanie" else rng.uniform(0.25, 0.7)),
            "low": float(rng.uniform(-1.8, 0.6) if hat == "beanie" else rng.uniform(-1.2, 1.0)),
        }
    if rng.random() < 0.045:
        things["mask"] = {
            "colour": MASK_COLOURS[int(rng.integers(len(MASK_COLOURS)))] if rng.random() < 0.7 else _random_colour(rng),
            "low": float(rng.uniform(-0.6, 0.6)) if rng.random() < 0.85 else float(rng.uniform(-3.5, -2.0)),
        }
    if rng.random() < 0.16:
        kinds = {"hand": 3.0, "microphone": 1.2, "cup": 1.0, "phone": 0.7, "ball": 0.3, "card": 0.35, "stick": 0.4}
        things["occluder"] = {
            "kind": _pick(rng, kinds),
            "place": _pick(rng, {"mouth": 3, "cheek": 2.5, "eye": 1, "chin": 2, "forehead": 1}),
            "side": int(rng.choice([-1, 1])),
            "turn": float(rng.uniform(-180, 180)),
            "colour": _random_colour(rng),
            "size": float(rng.uniform(0.8, 1.3)),
        }
    make_up = {}
    if female and not child and rng.random() < 0.55:
        make_up = {
            "lips": float(rng.uniform(0.2, 0.85)),
            "lip_colour": (
                float(rng.uniform(0.15, 0.5)),
                float(rng.uniform(0.01, 0.08)),
                float(rng.uniform(0.02, 0.12)),
            ),
            "lids": float(rng.uniform(0, 0.7)),
            "cheeks": float(rng.uniform(0, 0.35)),
        }
    clothes = [name for name in assets.names("mh/clothes", ".mhclo") if not name.startswith("fedora")]
    suits = [name for name in clothes if name.startswith("female") == female] or clothes
    return {
        "sex": "female" if female else "male",
        "age": round(age, 3),
        "child": round(child, 3),
        "skin": str(rng.choice(fitting)),
        "tone": round(tone, 3),
        "redness": float(rng.uniform(0, 1)),
        "spots": float(rng.uniform(0, 1) ** 3) * (0.5 if child else 1.0),
        "wrinkles": float(np.clip(rng.normal(1.1 * age, 0.2), 0, 1.3)) if not child else 0.0,
        "shine": float(rng.uniform(0.28, 0.55)),
        "make_up": make_up,
        "iris": iris,
        "iris_light": float(rng.uniform(0.75, 1.4)),
        "pupil": float(rng.uniform(0.26, 0.5)),
        "kappa": float(np.clip(rng.normal(4.5, 1.3), 0.0, 9.0)),
        "hair": hair,
        "hair_light": float(rng.uniform(0.7, 1.4)),
        "highlights": float(rng.uniform(0.1, 0.5)) if rng.random() < (0.4 if female else 0.1) else 0.0,
        "grey_share": float(rng.uniform(0.1, 0.6)) if age > 0.3 and rng.random() < 0.5 else 0.0,
        "style": _pick(rng, styles),
        "fringe": 1.0 if rng.random() < 0.05 else float(rng.uniform(0, 0.02) if rng.random() < 0.2 else 0.0),
        "bangs": _pick(
            rng,
            {"none": 6, "full": 2.0, "swept": 1.6, "veil": 0.2}
            if female or child
            else {"none": 5, "full": 0.7, "swept": 1.0},
        ),
        "hairline": float(np.clip(rng.normal(1.2 * age if not female else -0.3, 0.5), -1.0, 3.2)),
        "brow": str(rng.choice(assets.names("mh/eyebrows", ".mhclo"))),
        "brow_lift": float(rng.normal(0.38, 0.2)),
        "brow_tilt": float(rng.normal(0.0, 0.07)),
        "brow_arch": float(rng.normal(0.02, 0.05)),
        "brow_hairs": int(rng.integers(350, 1000) if female or child else rng.integers(500, 1700)),
        "brow_width": float(rng.uniform(0.02, 0.07) if female or child else rng.uniform(0.02, 0.13)),
        "brow_colour": brow,
        "lashes": float(rng.uniform(0.9, 1.5) if female else rng.uniform(0.5, 1.0)),
        "beard": beard,
        "clothes": str(rng.choice(suits)),
        "clothes_tint": _random_colour(rng),
        "teeth": (float(rng.uniform(0.62, 0.8)), float(rng.uniform(0.57, 0.72)), float(rng.uniform(0.42, 0.62))),
        "things": things,
        "light": _light(rng, assets, yaw),
        "background": _pick(
            rng,
            {
                "environment": 3.2,
                "blurred": 2.4,
                "wall": 1.8,
                "crowd": 1.0,
                "texture": 0.7,
                "shapes": 0.7,
                "foliage": 0.9,
            },
        ),
    }


WELL_LIT = 0.7
"""Share of pictures in which a soft light near the camera lights the face, as in most photographs of people."""


def _light(rng: np.random.Generator, assets: Assets, yaw: float) -> dict[str, Any]:
    light: dict[str, Any] = {
        "environment": str(rng.choice(assets.names("hdri", ".exr"))),
        "turn": float(rng.uniform(0, 360)),
    }
    if rng.random() < WELL_LIT:
        warm, cold = rng.uniform(0, 0.35, 2)
        lamps = [
            {
                "yaw": float(-yaw + rng.normal(0, 35)),
                "pitch": float(np.clip(rng.normal(22, 14), -10, 60)),
                "size": float(rng.uniform(12, 40)),
                "strength": float(np.exp(rng.uniform(np.log(0.4), np.log(2.5)))),
                "colour": (float(1 - 0.3 * cold), float(1 - 0.3 * warm - 0.1 * cold), float(1 - 0.6 * warm)),
            }
        ]
        return light | {
            "ambient": float(np.exp(rng.normal(0.1, 0.35))),
            "lamps": lamps,
            "exposure": float(np.clip(rng.normal(0.2, 0.28), -0.4, 0.8)),
            "white": (float(rng.uniform(0.93, 1.08)), 1.0, float(rng.uniform(0.9, 1.07))),
            "contrast": float(rng.uniform(0.95, 1.2)),
        }
    lamps = [
        {
            "yaw": float(rng.uniform(-180, 180) if rng.random() < 0.35 else rng.normal(0, 60)),
            "pitch": float(np.clip(rng.normal(25, 25), -40, 85)),
            "size": float(np.exp(rng.uniform(np.log(2.5), np.log(35)))),
            "strength": float(np.exp(rng.uniform(np.log(0.3), np.log(5)))),
            "colour": _light_colour(rng),
        }
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.3, 0.1])))
    ]
    dim = lamps and rng.random() < 0.3
    return light | {
        "ambient": float(rng.uniform(0.02, 0.15)) if dim else float(np.exp(rng.normal(0, 0.5))),
        "lamps": lamps,
        "exposure": float(np.clip(rng.normal(-0.1, 0.55), -1.5, 1.1)),
        "white": (float(rng.uniform(0.85, 1.15)), 1.0, float(rng.uniform(0.82, 1.18))),
        "contrast": float(rng.uniform(0.85, 1.25)),
    }


def _random_dark(rng: np.random.Generator) -> Colour:
    level = float(rng.uniform(0.005, 0.06)) if rng.random() < 0.75 else float(rng.uniform(0.1, 0.6))
    red, green, blue = rng.uniform(0.5, 1.0, 3) * level
    return float(red), float(green), float(blue)


def _random_colour(rng: np.random.Generator) -> Colour:
    value = float(np.exp(rng.uniform(np.log(0.02), np.log(0.8))))
    mix = rng.uniform(0, 1)
    red, green, blue = value * (mix + (1 - mix) * rng.uniform(0.05, 1, 3))
    return float(red), float(green), float(blue)


def _light_colour(rng: np.random.Generator) -> Colour:
    kind = rng.random()
    if kind < 0.5:
        warm = rng.uniform(0, 1)
        return 1.0, float(1 - 0.3 * warm), float(1 - 0.6 * warm)
    if kind < 0.85:
        return float(rng.uniform(0.75, 1)), float(rng.uniform(0.85, 1)), 1.0
    red, green, blue = rng.uniform(0.05, 1, 3)
    return float(red), float(green), float(blue)
