"""Every option of a run, once: typed, described with its unit, validated.

`Config` is the whole tree. Sections change the result of a run, except `run`, which says where and
how it is executed; the signature of a run (`genxai.runs.run_signature`) covers everything else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genxai.backend_rules import unsupported

# strict: `true` is not 1 and "3" is not 3, so that a slip of the pen cannot become a number
Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Share = Annotated[float, Field(gt=0.0, le=1.0, strict=True)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
HeldOut = Annotated[float, Field(gt=0.0, le=0.5, strict=True)]
AtLeastTen = Annotated[int, Field(ge=10, strict=True)]
Tokens = Annotated[int, Field(ge=8, le=512, strict=True)]
Pixels = Annotated[int, Field(ge=28, le=448, strict=True)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0, strict=True)]
Switch = Annotated[bool, Field(strict=True)]

#: what names a run or says how it is executed (pydantic's `exclude`); everything else changes what it computes
WITHOUT_EFFECT: dict[str, Any] = {"name": True, "run": True, "origin": True, "train": {"backend": True}}


class Section(BaseModel):
    """A part of the tree: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True)


class CaptionConfig(Section):
    """How informative the captions are (docs/benchmark.md; text Bayes accuracy is a closed form of these)."""

    exact: Probability = Field(0.5, description="q_c: probability that the caption names the class")
    superclass: Probability = Field(0.3, description="q_s: probability that it names the super-class instead")
    texture: Probability = Field(0.5, description="q_a: probability that it also names the texture")
    flip: Probability = Field(0.05, description="eta: probability that a named class is a wrong one")
    missing: Probability = Field(0.0, description="m: probability that there is no caption at all")

    @model_validator(mode="after")
    def _probabilities_sum(self) -> CaptionConfig:
        if self.exact + self.superclass > 1.0 + 1e-12:
            raise ValueError("exact + superclass must not exceed 1")
        return self


class DataConfig(Section):
    """TexMM, the textured and captioned MNIST / Fashion-MNIST benchmark; or one of the corpora of toxic text.

    A corpus of text has neither images nor captions: of these options `source`, `seed`, `val_fraction` and the limits
    apply to it.
    """

    dataset: Literal["mnist", "fashion-mnist", "toxicity-surge", "toxicity-davidson"] = Field(
        "mnist", description="which images; or which comments (toxic or not)"
    )
    source: Literal["full", "embedded"] = Field(
        "full", description="the complete data set, or the sample inside the package (3,000 + 1,000 images)"
    )
    split: Literal["pooled", "canonical"] = Field(
        "pooled", description="stratified 80/20 of all images (the paper's), or the data set's own train/test"
    )
    seed: Seed = Field(0, description="of splits, textures and captions: one data set for all training seeds")
    image_size: int = Field(28, ge=28, le=224, multiple_of=4, strict=True, description="side of an image [px]")
    mode: Literal["background", "overlay", "patch", "none"] = Field("background", description="where the texture lies")
    rho: Probability = Field(
        0.98, description="P(texture = pi(class)) in training; 0.1 means independent, 0 never aligned"
    )
    amplitude: Share = Field(0.5, description="texture amplitude, of full white")
    noise: NonNegative = Field(0.0, description="standard deviation of Gaussian noise on every pixel, of full white")
    val_fraction: HeldOut = Field(0.1, description="share of train held out")
    balanced_val_size: AtLeastTen = Field(1000, description="at most this many held-out images, texture independent")
    train_limit: Count | None = Field(None, description="use only this many training images (stratified); all if null")
    val_limit: Count | None = Field(
        None, description="use only this many held-out images; null: as many as keep their share under train_limit"
    )
    test_limit: Count | None = Field(None, description="use only this many test images (stratified); all if null")
    captions: CaptionConfig = Field(default_factory=CaptionConfig)

    @property
    def is_text(self) -> bool:
        """Whether this is a corpus of comments, not TexMM."""
        return self.dataset.startswith("toxicity")

    @property
    def shows_gratings(self) -> bool:
        """Whether the texture of an image, a grating outside or over the object, can be read off it."""
        return self.mode in ("background", "overlay")

    @model_validator(mode="after")
    def _is_embedded(self) -> DataConfig:
        if self.source == "embedded" and self.dataset == "toxicity-davidson":
            raise ValueError("source=embedded: toxicity-davidson is not inside the package; use source=full")
        return self


class ImageEncoderConfig(Section):
    """The visual branch: one activation map is explained, the last one gives the image tokens."""

    name: Literal["small_cnn", "resnet18", "resnet50"] = "small_cnn"
    width: Count = Field(
        32, description="channels of the small CNN's first layer (map: twice, tokens: four times as many)"
    )
    input_size: int = Field(
        28, ge=28, le=448, strict=True, description="images are resized to this before the encoder [px]"
    )
    cam_layer: Literal["", "layer2", "layer3", "layer4"] = Field(
        "", description="ResNet block that is explained; '' is layer3 (14x14 at 224 px)"
    )
    weights: str = Field(
        "none", description="'none', 'imagenet' (torchvision download) or a local .safetensors/.pth file"
    )
    batch_norm: Literal["batch", "frozen"] = Field(
        "batch", description="statistics of a ResNet's batch norm: the (global) batch's, or those of its weights, kept"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> ImageEncoderConfig:
        if self.name == "small_cnn" and (self.cam_layer or self.weights != "none" or self.batch_norm != "batch"):
            raise ValueError(
                f"small_cnn has one explained map, no batch norm and is trained from scratch: cam_layer="
                f"{self.cam_layer!r}, weights={self.weights!r} and batch_norm={self.batch_norm!r} are for a ResNet"
            )
        if self.name != "small_cnn" and self.input_size <= 32:
            raise ValueError(
                f"input_size={self.input_size} gives {self.name} a last map of 1x1, nothing to explain: use at least "
                "33, best 224 (layer3 is 14x14)"
            )
        return self


class TextEncoderConfig(Section):
    """The text branch."""

    name: str = Field("small", description="'small' (own WordPiece vocabulary) or any BERT: hub name or local folder")
    width: Count = Field(64, description="hidden width of the small Transformer")
    layers: Count = Field(2, description="layers of the small Transformer")
    heads: Count = Field(4, description="heads of the small Transformer")
    max_tokens: int = Field(
        24, ge=8, le=512, strict=True, description="caption length [tokens]; longer captions are an error"
    )
    pretrained: Switch = Field(True, description="load the named BERT's weights (false: its architecture only)")


class GanConfig(Section):
    """The conditional attention WGAN-GP."""

    latent_dim: Count = Field(64, description="length of z")
    width: Count = Field(32, description="channels at full resolution")
    attention: Literal["residual", "literal", "none"] = Field(
        "residual", description="Eq. 4: F(1 + gamma(HW alpha - 1)), alpha*F as printed, or off"
    )
    ema_decay: Probability = Field(0.999, description="decay of the averaged generator per generator step")


class ModelConfig(Section):
    """Networks."""

    fusion: Literal["image", "text", "early", "cross"] = Field("cross", description="modalities and how they meet")
    dim: Count = Field(128, description="shared token width d_f of the fusion")
    heads: Count = Field(8, description="attention heads of the fusion (paper: 8)")
    layers: Count = Field(2, description="cross-attention layers (paper: 2)")
    hidden: Count = Field(256, description="hidden width of the MLP head (paper: 256)")
    dropout: BelowOne = Field(0.3, description="dropout of the head (paper: 0.3)")
    image: ImageEncoderConfig = Field(default_factory=ImageEncoderConfig)
    text: TextEncoderConfig = Field(default_factory=TextEncoderConfig)
    gan: GanConfig = Field(default_factory=GanConfig)

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={self.dim}, heads={self.heads}")
        if self.text.name == "small" and self.text.width % self.text.heads:
            raise ValueError(f"text.width must be a multiple of text.heads, got {self.text.width}, {self.text.heads}")
        return self


class ObjectiveConfig(Section):
    """Loss weights of Eqs. 1, 2, 5 and 11."""

    lambda_gp: NonNegative = Field(10.0, description="weight of the gradient penalty, Eq. 1 (paper: 10)")
    lambda_bias: NonNegative = Field(0.1, description="weight of R_bias in the generator loss, Eq. 2 (paper: 0.1)")
    lambda_attribution: NonNegative = Field(5.0, description="lambda_a: weight of R(M), Eq. 11")
    n_critic: Count = Field(5, description="critic steps per generator step (paper: 5)")
    bias_descriptor: str = Field("texture_energy", description="B(x), by its registered name")
    bias_reference: Literal["balanced", "validation", "data"] = Field(
        "balanced", description="E[B(x)] over texture-balanced training data, over val_balanced, or the data (Eq. 5)"
    )
    bias_conditional: Switch = Field(True, description="match E[B|y] per class, or only the marginal (Eq. 5)")


class ExplainConfig(Section):
    """Which samples are explained during training, and how; R(M) of Eq. 11 and Reveal-to-Revise share the maps."""

    method: Literal["grad_cam_plus_plus", "grad_cam_plus", "grad_cam"] = Field(
        "grad_cam_plus_plus", description="Eqs. 7-8, the control with positive gradients only, or plain Grad-CAM"
    )
    fraction: Share = Field(0.1, description="share of each real and each generated batch that is explained")
    every: Count = Field(1, description="explain at every n-th generator step")
    from_epoch: int = Field(
        0, ge=0, strict=True, description="epochs without explanation first; what follows is a post-hoc fine-tune"
    )
    masks: Literal["object", "random"] = Field(
        "object", description="what maps are held to: the object, or (placebo) its shape at a random place"
    )


class MethodConfig(Section):
    """What else trains the classifier against a shortcut: the baselines, by their registered names."""

    name: str = Field(
        "erm", description="erm (nothing else), group_resample, group_dro, jtt, dfr, rrr, texture_swap, or your own"
    )
    strength: NonNegative | None = Field(
        None, description="the method's one number (docs/methods.md says which); null: its default"
    )
    warmup_epochs: Count = Field(1, description="jtt: epochs of the model whose errors are weighted up")


class ReviseConfig(Section):
    """Reveal-to-Revise: what counts as a bias signal in an explained sample, and what is done about it."""

    enabled: Switch = Field(True, description="correct flagged samples (false: only R(M) of Eq. 11 is active)")
    score: Literal["out_of_mask", "texture_evidence"] = Field(
        "out_of_mask", description="share of map mass outside the mask, or on texture"
    )
    tau: Probability = Field(0.3, description="samples scoring above this are corrected")
    weight: NonNegative = Field(5.0, description="weight of the correction in the classifier loss")
    generator_weight: NonNegative = Field(0.1, description="weight of the correction in the generator loss")
    audit_every: Count = Field(
        10, description="at every n-th explanation corrected samples are scored once more, for the ledger"
    )


class TrainConfig(Section):
    """The joint loop."""

    epochs: Count = Field(10, description="passes over the training images by the classifier")
    batch_size: Count = Field(32, description="images per batch (paper: 32)")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    scheduler: Literal["cosine", "step", "constant"] = "cosine"
    lr: Positive = Field(1e-3, description="learning rate of the classifier")
    weight_decay: NonNegative = Field(1e-2, description="weight decay of the classifier (decoupled under adamw)")
    gan_lr: Positive = Field(2e-4, description="learning rate of generator and critic")
    gan_betas: tuple[BelowOne, BelowOne] = Field((0.0, 0.9), description="Adam's decay rates for generator and critic")
    clip_norm: Positive | None = Field(None, description="clip gradient norms to this; null: no clipping")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type; the penalty, and maps to scores, stay in IEEE float32"
    )
    backend: Literal["auto", "ddp", "fsdp2", "zero1", "zero2", "zero3"] = Field(
        "auto", description="what spreads a run over processes; auto: what the launcher says, else ddp"
    )
    eval_every: Count = Field(1, description="epochs between evaluations")
    patience: Count = Field(10, description="evaluations without a better validation accuracy before stopping early")
    select_on: Literal["val", "val_balanced"] = Field(
        "val", description="the split whose accuracy chooses the kept classifier and stops early"
    )
    generator: Switch = Field(
        True, description="train generator and critic too (false: the classifier alone, which then sees no image of G)"
    )
    generator_metrics: Switch = Field(
        False, description="score the generator at the end, if there is one: FID and kin, bias, diversity (extra fid)"
    )
    generated_samples: int = Field(10_000, ge=100, strict=True, description="images that those are computed on")
    fid_extractor: Literal["grey", "inception"] = Field(
        "grey", description="features of FID, IS, KID, precision, recall: the shipped grey CNN's, or Inception v3's"
    )
    explain_samples: Count = Field(512, description="images of each split whose maps are scored at an evaluation")
    second_opinion: Switch = Field(
        False, description="at the end, score pytorch-grad-cam's maps of the kept classifier too (extra second-opinion)"
    )
    threads: Count = Field(1, description="CPU threads of the run; fixed, because sums depend on it")


class RunConfig(Section):
    """Where and how a run is executed; nothing here can change its result or its signature."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="'auto' takes a GPU if there is one")
    processes: Count | None = Field(
        None, description="processes of the run, one per GPU; null: as many as the launcher started"
    )
    checkpoint_seconds: NonNegative = Field(60.0, description="wall time between checkpoints [s]; 0: at every step")
    inception_weights: str | None = Field(
        None, description="local file of torch-fidelity's Inception weights; null: the library downloads them"
    )
    log_every: Count = Field(20, description="steps between progress lines and checks for non-finite losses")
    trackers: tuple[str, ...] = Field(("tensorboard",), description="Accelerate trackers by name; empty: none")
    pictures: Switch = Field(True, description="write sample grids and attribution overlays at evaluations")


class Origin(Section):
    """Which sweep asked for the run, and as which trial."""

    sweep: str
    trial: int = Field(ge=0)
    stage: Literal["grid", "bayes", "selection", "row"]
    point: dict[str, Any]
    row: str | None = None


class Config(Section):
    """A complete run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "run", description="folder under RUNS that the run is kept in"
    )
    seed: Seed = Field(0, description="of everything random in training: initialisation, batches, noise, dropout")
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    explain: ExplainConfig = Field(default_factory=ExplainConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    revise: ReviseConfig = Field(default_factory=ReviseConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    origin: Origin | None = Field(None, description="set by launch/sweep.py")

    @model_validator(mode="after")
    def _object_outshines_texture(self) -> Config:
        if self.revise.enabled and self.data.shows_gratings and self.data.amplitude > 0.9:
            raise ValueError(
                "data.amplitude above 0.9 hides the object of generated images, whose mask is what outshines the "
                "texture: lower it, or set revise.enabled=false"
            )
        return self

    @model_validator(mode="after")
    def _text_has_no_map(self) -> Config:
        if self.model.fusion == "text" and self.explains and not self.data.is_text:
            raise ValueError(
                "model.fusion=text has no image map: set revise.enabled=false and objective.lambda_attribution=0"
            )
        return self

    @model_validator(mode="after")
    def _comments_have_no_images(self) -> Config:
        if self.data.is_text:
            wanted = {
                "model.fusion": "text",
                "train.generator": False,
                "revise.enabled": False,
                "train.select_on": "val",
            }
            given = (self.model.fusion, self.train.generator, self.revise.enabled, self.train.select_on)
            wrong = [f"{key}={value}" for (key, value), is_ in zip(wanted.items(), given, strict=True) if value != is_]
            if wrong:
                raise ValueError(
                    f"data.dataset={self.data.dataset} has no images: set {', '.join(wrong).lower()}, or start from "
                    "the preset toxicity"
                )
        return self

    @model_validator(mode="after")
    def _training_data_select_nothing(self) -> Config:
        # what build_method refuses of any method, of those here before a sweep has started anything
        if self.method.name == "dfr" and self.train.select_on == "val_balanced":
            raise ValueError("method.name=dfr trains on val_balanced, which so cannot select: set train.select_on=val")
        if self.method.name == "jtt" and self.explain.from_epoch and self.explains:
            raise ValueError(
                "method.name=jtt and explain.from_epoch both have the classifier start again: use one of them"
            )
        return self

    @model_validator(mode="after")
    def _revision_needs_the_generator(self) -> Config:
        if self.revise.enabled and not self.train.generator:
            raise ValueError(
                "revise.enabled=true corrects generated samples too: set train.generator=true, or revise.enabled=false"
            )
        return self

    @property
    def explains(self) -> bool:
        """Whether attribution takes part in training at all."""
        return self.revise.enabled or self.objective.lambda_attribution > 0

    @property
    def explained_samples(self) -> int:
        """Samples of a (global) batch that are explained: the configured fraction, at least one."""
        return max(1, round(self.explain.fraction * self.train.batch_size))

    @model_validator(mode="after")
    def _share_is_whole(self) -> Config:
        if self.run.processes and self.train.batch_size % self.run.processes:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} cannot be shared equally by {self.run.processes} processes"
            )
        return self

    @model_validator(mode="after")
    def _backend_can_do_it(self) -> Config:
        """What a backend would get wrong is refused here, before any process is started (docs/scaling.md)."""
        backend = self.train.backend
        reason = unsupported(self, backend)
        if reason:
            raise ValueError(f"train.backend={backend}: {reason}")
        return self
