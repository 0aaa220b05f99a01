"""What a field of the configuration may be, where it is one of a few names."""

from __future__ import annotations

from enum import StrEnum


class ModelSource(StrEnum):
    """Where an architecture and its weights come from."""

    torchvision = "torchvision"
    timm = "timm"
    efficientnet_lite = "efficientnet_lite"
    cifar_resnet = "cifar_resnet"
    open_clip = "open_clip"
    custom = "custom"


class Gpu(StrEnum):
    """GPUs whose times a plan can tell."""

    t4 = "t4"
    v100 = "v100"
    rtx4090 = "rtx4090"
    l40s = "l40s"
    a100 = "a100"
    h100 = "h100"
    h200 = "h200"


class DataSource(StrEnum):
    """How what ``data.root`` names is laid out."""

    imagefolder = "imagefolder"
    imagenet = "imagenet"
    cifar10 = "cifar10"
    samples = "samples"
    folder = "folder"
    csv = "csv"
    huggingface = "huggingface"
    webdataset = "webdataset"
    custom = "custom"

    @property
    def published(self) -> bool:
        """Whether labels are a published numbering of classes, and not names of the user's own."""
        return self in (DataSource.imagenet, DataSource.cifar10, DataSource.samples, DataSource.custom)


class Labels(StrEnum):
    """How a folder or label of the user's own tells the model's class: by its name, its rank among them, or as its
    index."""

    names = "names"
    rank = "rank"
    indices = "indices"


class Fingerprint(StrEnum):
    """What the data's fingerprint is made of: ids, labels and sizes, or every byte too."""

    listing = "listing"
    content = "content"


class Unreadable(StrEnum):
    """What an unreadable image does."""

    fail = "fail"
    skip = "skip"


class Positions(StrEnum):
    """Which positions of a layer become pointwise feature vectors."""

    all = "all"
    uniform = "uniform"
    relevance = "relevance"
    contrastive = "contrastive"
    gradient = "gradient"


class Patches(StrEnum):
    """How a vector is traced to pixels: sharing ratios, its unit's gradient, tokens, or its position's square."""

    auto = "auto"
    receptive_field = "receptive_field"
    gradient_x_input = "gradient_x_input"
    integrated_gradients = "integrated_gradients"
    ig = "ig"
    attnlrp = "attnlrp"
    rollout = "rollout"
    upsampling = "upsampling"


class Method(StrEnum):
    """How concept vectors are found."""

    bisecting = "bisecting"
    kmeans = "kmeans"
    nmf = "nmf"
    semi_nmf = "semi_nmf"
    dictionary_learning = "dictionary_learning"
    sae = "sae"
    transcoder = "transcoder"
    pca = "pca"
    channels = "channels"
    rotation = "rotation"
    random = "random"
    random_pfv = "random_pfv"
    saved = "saved"
    custom = "custom"


class SaeActivation(StrEnum):
    """What makes a sparse autoencoder's latents sparse."""

    relu = "relu"
    topk = "topk"
    batchtopk = "batchtopk"
    matryoshka = "matryoshka"
    jumprelu = "jumprelu"


class Code(StrEnum):
    """How vectors are written in concepts."""

    lasso = "lasso"
    lasso_nonnegative = "lasso_nonnegative"
    omp = "omp"
    omp_nonnegative = "omp_nonnegative"
    simultaneous_omp = "simultaneous_omp"
    coarse_to_fine = "coarse_to_fine"
    coarse_to_fine_nonnegative = "coarse_to_fine_nonnegative"
    encoder = "encoder"
    custom = "custom"


class MeanRule(StrEnum):
    """What the mean concept of a centred dictionary is in an evaluation: ranked like any other, or always kept."""

    ranked = "ranked"
    kept = "kept"


class PathWeight(StrEnum):
    """The weight under the path integral; or another path, or what has none."""

    ig = "ig"
    left_ig = "left_ig"
    right_ig = "right_ig"
    idg = "idg"
    custom = "custom"
    guided_ig = "guided_ig"
    ig2 = "ig2"
    spectral_ig = "spectral_ig"
    manifold_ig = "manifold_ig"
    idgi = "idgi"
    smooth_grad = "smooth_grad"
    smooth_grad_variance = "smooth_grad_variance"
    expected_gradients_variance = "expected_gradients_variance"
    occlusion = "occlusion"


class AttributionMethod(StrEnum):
    """What evaluate=attribution measures beside the weights on the straight path."""

    guided_ig = "guided_ig"
    ig2 = "ig2"
    spectral_ig = "spectral_ig"
    manifold_ig = "manifold_ig"
    idgi = "idgi"
    smooth_grad = "smooth_grad"
    smooth_grad_variance = "smooth_grad_variance"
    expected_gradients_variance = "expected_gradients_variance"
    occlusion = "occlusion"
    covariance = "covariance"


class Along(StrEnum):
    """What the path leads to: what the concepts rebuild (the paper's), or the activation itself, with an error node."""

    reconstruction = "reconstruction"
    activation = "activation"


class Baseline(StrEnum):
    """Where the path starts."""

    zero = "zero"
    mean = "mean"
    mean_position = "mean_position"
    blank = "blank"
    mean_image = "mean_image"
    blur = "blur"
    image = "image"
    images = "images"


class Around(StrEnum):
    """What is done where paths run around the lower of two layers: refuse the pair, or hold what comes on them."""

    refuse = "refuse"
    hold = "hold"


class Mode(StrEnum):
    """How derivatives along the path are taken."""

    auto = "auto"
    reverse = "reverse"
    forward = "forward"


class SourceKind(StrEnum):
    """The units that an activation is written in."""

    concepts = "concepts"
    channels = "channels"
    positions = "positions"
    pixels = "pixels"


class Rule(StrEnum):
    """The quadrature rule of the path integral; auto: nodes for each segment, from its gaps on a few images."""

    auto = "auto"
    riemann_left = "riemann_left"
    riemann_right = "riemann_right"
    midpoint = "midpoint"
    trapezoid = "trapezoid"
    simpson = "simpson"
    gauss_legendre = "gauss_legendre"


class ReadOut(StrEnum):
    """How a concept's value in an image is read: projection at its strongest position, summed over positions, or its
    code at that position."""

    max = "max"
    sum = "sum"
    code = "code"


class Output(StrEnum):
    """What is explained of a class."""

    logit = "logit"
    probability = "probability"


Scope = StrEnum("Scope", ["class", "pair", "dataset", "image", "error"])
"""What a graph explains."""


class Images(StrEnum):
    """Which images stand for a class: those predicted as it, or those labelled so."""

    predicted = "predicted"
    labelled = "labelled"


class Evaluation(StrEnum):
    """What is measured; each fills its own rows of the run's tables."""

    reconstruction = "reconstruction"
    localization = "localization"
    saturation = "saturation"
    attribution = "attribution"
    insertion = "insertion"
    transfer = "transfer"
    interlayer = "interlayer"
    planted = "planted"
    stability = "stability"
    circuit = "circuit"
    audit = "audit"
    shortcut = "shortcut"
    repair = "repair"


class Order(StrEnum):
    """How the concepts of a layer are ordered by their effect on one concept of the next."""

    random = "random"
    magnitude = "magnitude"
    u_x_gradient = "u_x_gradient"
    gig = "gig"
    left_ig = "left_ig"
    idg = "idg"
    leave_one_out = "leave_one_out"
    activation_patching = "activation_patching"


class CircuitOrder(StrEnum):
    """How concepts are ranked by what they do for the class, from the images of the other half."""

    gig = "gig"
    u_x_gradient = "u_x_gradient"
    magnitude = "magnitude"
    effect = "effect"
    random = "random"


class EditOrder(StrEnum):
    """How the concepts of a shortcut are found: by the attribute on labelled images, by what they do for the class
    without any, at random, or by hand."""

    attribute = "attribute"
    gig = "gig"
    effect = "effect"
    random = "random"
    given = "given"


class EditValue(StrEnum):
    """What the code of an edited concept becomes: nothing, its mean over the data, another image's, or a multiple."""

    zero = "zero"
    mean = "mean"
    resample = "resample"
    scale = "scale"


class CircuitErrors(StrEnum):
    """What a dictionary does not rebuild, in a circuit's forward pass: of the current activation, of the clean one, or
    left out."""

    keep = "keep"
    node = "node"
    remove = "remove"


class Half(StrEnum):
    """Which images: those for choosing between methods, those for confirming the choice, or all."""

    all = "all"
    choosing = "choosing"
    confirming = "confirming"


class Stage(StrEnum):
    """The steps of a run, in order."""

    extract = "extract"
    dictionary = "dictionary"
    describe = "describe"
    trace = "trace"
    effects = "effects"
    graph = "graph"
    evaluate = "evaluate"
    cards = "cards"
    report = "report"


class LoggerKind(StrEnum):
    """Where metrics, tables and figures go besides the run's folder."""

    wandb = "wandb"
    csv = "csv"
    tensorboard = "tensorboard"
    none = "none"


class WandbMode(StrEnum):
    """Whether W&B uploads (`online`), keeps its files for later (`offline`, needs no account), or does nothing."""

    offline = "offline"
    online = "online"
    disabled = "disabled"
