"""Section `pretrain`: cross-view masked autoencoder runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cdgmae.settings.base import EachOnce, Name, Ratio, Seed, Settings
from cdgmae.settings.crops import CropPairSettings, Fraction, ShownRegion, check_range
from cdgmae.settings.encoder import ARCHITECTURES, VitSettings
from cdgmae.settings.reading.expression_bounds import can_be
from cdgmae.settings.reading.expressions import parse_expression
from cdgmae.settings.reading.messages import did_you_mean

SCORE_COLUMNS = ("gs", "ls", "nps", "nps_reverse")
"""Scores of a view against its real image that `view_filter` and `view_weight` may name; see stage `consistency`."""

SCORE_RANGE = (-1.0, 1.0)
"""They are means of cosines."""


class PretrainRunSettings(VitSettings, CropPairSettings):
    """One pre-training run; the defaults are CDG-MAE-a1 of the paper (Table 6)."""

    source: Name = Field(default="s_ldm", description="View source (section `views`) whose bags are trained on.")
    pretext: Literal["cross_view", "crops", "video_pairs", "mae"] = Field(
        default="cross_view",
        description="`cross_view`: target and anchors from the bag (CDG-MAE). `crops`: target and anchor are crops of the real image "
        "(CropMAE). `video_pairs`: the bag is a clip, the anchor an earlier frame of it than the target (SiamMAE). `mae`: target only, "
        "by CropMAE's decoder (normalised after attention, with dropout) and crops; He et al.'s MAE has another decoder.",
    )
    num_anchors: int = Field(default=1, ge=0, le=16, description="Anchor views per target, N. Paper: 1 (a1) and 3 (a3).")
    target_view: Literal["random", "real", "generated"] = Field(
        default_factory=lambda given: "real" if given.get("pretext") in ("crops", "mae") else "random",
        description="Which view of the bag is the target (paper, Table 3). Paper: random. Pretexts `crops` and `mae` take the real image if it is "
        "left out; `random` on a source of kind video crops another frame of the clip every epoch, as CropMAE does on Kinetics.",
    )
    architecture: Literal["vits16", "vits8", "vitb16", "vitl16"] | None = Field(
        default=None,
        description="The encoder by name: fills in patch_size, embed_dim, depth and num_heads. The decoder keeps its own keys "
        "(256/4/8, as CropMAE trains every encoder; MAE gives ViT-B 512/8/16 and ViT-L 1024/12/16).",
    )
    view_filter: str | None = Field(
        default=None,
        description="Generated views that may be drawn, as a condition on their scores against the real image (stage `consistency`): columns "
        "gs, ls, nps, nps_reverse, e.g. `nps >= 0.6 and gs >= 0.9`. A view without scores does not pass; bags left with too few views "
        "are left out (`cross_view`). Paper: none.",
    )
    view_weight: Literal["gs", "ls", "nps", "nps_reverse"] | None = Field(
        default=None,
        description="Score to which a view's chance of being drawn is proportional, negative ones counting as 0; the real image weighs 1, "
        "its score against itself (`cross_view`). Paper: none, all views alike.",
    )
    crop_share: Ratio = Field(
        default=0.0,
        description="Share of the samples that show two crops of the real image, as pretext `crops` draws them, and not views of the bag: the "
        "mixture of crops and views (`cross_view` with one anchor). Paper: 0.",
    )
    frame_gap: tuple[int, int] = Field(
        default=(4, 47),
        description="Frames between anchor and target, drawn uniformly with both ends included and cut to the clip (`video_pairs`). "
        "SiamMAE: 4 to 47.",
    )
    target_masking_ratio: Ratio = Field(default=0.9, description="Share of the target's patches that is masked. Paper: 0.90.")
    anchor_masking_ratio: Ratio = Field(
        default=0.0, description="Share of each anchor's patches that is dropped. Paper: 0 (a1), 0.25 (a3)."
    )
    decoder_embed_dim: int = Field(default=256, ge=8, description="Decoder token width. Paper: 256.")
    decoder_depth: int = Field(default=4, ge=1, description="Decoder blocks. Paper: 4.")
    decoder_num_heads: int = Field(default=8, ge=1, description="Decoder attention heads. CropMAE: 8.")
    anchor_positions: bool = Field(default=False, description="Add the decoder's positions to the anchors' tokens. CropMAE: no.")
    anchor_cls_in_memory: bool = Field(
        default=True, description="The decoder also attends to the anchors' CLS tokens. CropMAE: yes."
    )
    norm_pix_loss: bool = Field(
        default=True, description="Normalise each target patch to zero mean and unit variance in the loss."
    )
    crop_scale: Fraction = Field(
        default=(0.5, 1.0), description="Area share of the random crop (`cross_view`, `video_pairs`, `mae`). Paper: 0.5 to 1."
    )
    shared_crop: bool = Field(
        default=True, description="One crop and one flip for all views of a bag (SiamMAE); false draws them per view."
    )
    views_show: ShownRegion | None = Field(
        default=None,
        description="What part of the real image the other views of a bag show. With `central_square` the real image is cropped within its "
        "central square, so that a shared crop shows the same region of all views (`cross_view`). Left out: what the view source says (`s_ldm`, "
        "`rcg` and `diffusers`: central_square; `folder`: its own key); by hand, without a configuration: whole_image.",
    )
    epochs: int = Field(default=100, ge=1, description="Passes over the bags. Paper: 100.")
    warmup_epochs: float = Field(
        default_factory=lambda given: given.get("epochs", 100) / 20,
        ge=0,
        description="Linear warm-up, in epochs; 5 % of the epochs if left out, as CropMAE does (5 for 100, 20 for 400).",
    )
    effective_batch_size: int = Field(
        default=2048, ge=1, description="Bags per optimiser step over all devices and accumulation. Paper: 2048."
    )
    base_learning_rate: float = Field(
        default=1.5e-4, gt=0, description="Per 256 bags: peak = base * effective_batch_size / 256. Paper: 1.5e-4."
    )
    min_learning_rate: float = Field(default=0.0, ge=0, description="End of the cosine. Paper: 0.")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's decay of matrices (not biases, not norms). Paper: 0.05.")
    betas: Fraction = Field(default=(0.9, 0.95), description="AdamW's two momentum terms. Paper: 0.9, 0.95.")
    clip_grad_norm: float | None = Field(default=None, gt=0, description="Clip the global gradient norm to this. Paper: none.")
    ema_decay: Ratio | None = Field(
        default=None,
        description="Decay of an exponential moving average of the weights, which is then what the run leaves. Paper: none.",
    )
    max_loss_ratio: float | None = Field(
        default=10.0,
        gt=1,
        description="A loss over this many times the mean of the 100 steps before it stops the run, with the step, learning rate and "
        "keys written down and the last saved state kept; null: only a loss that is not finite does.",
    )
    num_panels: int = Field(
        default=8,
        ge=0,
        description="Reconstruction panels (PNG) drawn over the run, evenly spaced, the last at its end; 0: none.",
    )

    @classmethod
    def from_plain(cls, values: Any, context: Any = None) -> Self:
        """As `Settings.from_plain`, with `architecture` spelled out."""
        return super().from_plain(with_architecture_dimensions(values), context)

    @model_validator(mode="after")
    def _combination_fits(self) -> Self:
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise ValueError(
                f"decoder_embed_dim = {self.decoder_embed_dim} is not a multiple of decoder_num_heads = {self.decoder_num_heads} and of 4; "
                "change one of them, e.g. to 256 and 8"
            )
        for key, value in ARCHITECTURES.get(self.architecture or "", {}).items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"{key} = {getattr(self, key)} contradicts architecture = {self.architecture!r}, whose {key} is {value}; "
                    "leave one of the two out"
                )
        expected = {"crops": 1, "video_pairs": 1, "mae": 0}.get(self.pretext)
        if expected is not None and self.num_anchors != expected:
            raise ValueError(
                f"pretext {self.pretext} has {expected} anchor(s), found num_anchors = {self.num_anchors}; write {expected}"
            )
        if self.pretext == "cross_view" and self.num_anchors == 0:
            raise ValueError("pretext cross_view needs num_anchors >= 1; use pretext mae for none")
        if self.crop_share and (self.pretext, self.num_anchors) != ("cross_view", 1):
            raise ValueError(
                f"crop_share = {self.crop_share} mixes crop pairs into pretext cross_view with num_anchors = 1, found {self.pretext} with "
                f"{self.num_anchors}; set it to 0, or change those"
            )
        check_range("crop_scale", self.crop_scale, shares=True)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: AdamW's momentum terms are from 0 to below 1, e.g. [0.9, 0.95]")
        if not 1 <= self.frame_gap[0] <= self.frame_gap[1]:
            raise ValueError(f"frame_gap = {list(self.frame_gap)} is no range of whole numbers from 1 on, e.g. [4, 47]")
        self._check_scores()
        patches = (self.image_size // self.patch_size) ** 2
        for key in ("target_masking_ratio", "anchor_masking_ratio"):
            if int(patches * (1 - getattr(self, key))) < 1:
                raise ValueError(f"{key} = {getattr(self, key)} leaves none of {patches} patches visible; lower it")
        if int(patches * (1 - self.target_masking_ratio)) == patches:
            raise ValueError(f"target_masking_ratio = {self.target_masking_ratio} masks none of {patches} patches; raise it")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} exceeds epochs = {self.epochs}; lower it, or raise epochs")
        return self

    def _check_scores(self) -> None:
        if self.view_filter is not None:
            try:
                passes = can_be(
                    parse_expression(self.view_filter, SCORE_COLUMNS), True, dict.fromkeys(SCORE_COLUMNS, SCORE_RANGE)
                )
            except ValueError as error:
                raise ValueError(f"view_filter: {error}") from None
            if not passes:
                raise ValueError(f"view_filter = {self.view_filter!r}: no view can pass; scores lie between -1 and 1")
        if self.needs_scores and self.pretext != "cross_view":
            key = "view_filter" if self.view_filter is not None else "view_weight"
            raise ValueError(
                f"{key} chooses among generated views and belongs to pretext cross_view, found {self.pretext}; remove it"
            )

    @property
    def needs_scores(self) -> bool:
        """Whether the run needs the score tables of stage `consistency`."""
        return self.view_filter is not None or self.view_weight is not None

    @property
    def trains_on_views(self) -> bool:
        """Whether the run needs the view shards of its source, and not the real images alone."""
        return self.pretext in ("cross_view", "video_pairs") or self.target_view != "real"

    @property
    def vit(self) -> VitSettings:
        """The encoder's dimensions alone."""
        return VitSettings(**{name: getattr(self, name) for name in VitSettings.model_fields})

    @property
    def crop_pair(self) -> CropPairSettings:
        """How the two crops of pretext `crops` are drawn, alone."""
        return CropPairSettings(**{name: getattr(self, name) for name in CropPairSettings.model_fields})


class PretrainSettings(Settings):
    """Section `pretrain`."""

    seeds: Annotated[list[Seed], EachOnce] = Field(
        default=[0], min_length=1, description="Every run is trained once per seed. Paper: 3 seeds."
    )
    defaults: dict[str, Any] = Field(default={}, description="Keys of a run that all runs share; a run's own keys win.")
    runs: dict[Name, PretrainRunSettings] = Field(default={}, description="Pre-training runs by name.")

    @field_validator("defaults")
    @classmethod
    def _keys_of_a_run(cls, defaults: dict[str, Any]) -> dict[str, Any]:
        allowed = list(PretrainRunSettings.model_fields)
        if unknown := [f"{key!r}{did_you_mean(key, allowed)}" for key in defaults if key not in allowed]:
            raise ValueError(f"unknown key(s) {', '.join(unknown)}; allowed: {', '.join(allowed)}")
        return defaults


def with_run_defaults(section: Any) -> Any:
    """The plain section `pretrain` with its `defaults` filled into every run, so that a run's settings stand alone."""
    defaults, runs = (section.get(name) for name in ("defaults", "runs")) if isinstance(section, dict) else (None, None)
    if not isinstance(runs, dict):
        return section
    shared = (
        {key: value for key, value in defaults.items() if key in PretrainRunSettings.model_fields}
        if isinstance(defaults, dict)
        else {}
    )
    filled = {
        name: with_architecture_dimensions({**shared, **(run or {})}) if isinstance(run, dict | None) else run
        for name, run in runs.items()
    }
    return {**section, "runs": filled}


def with_architecture_dimensions(run: Any) -> Any:
    """The plain settings of a run with the dimensions that its `architecture` stands for, where they are not given."""
    if not isinstance(run, dict) or not isinstance(run.get("architecture"), str):
        return run
    return {**ARCHITECTURES.get(run["architecture"], {}), **run}
