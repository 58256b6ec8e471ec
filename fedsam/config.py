"""Everything that can differ between two runs, as one frozen, validated value: `Experiment`.

An experiment is read from TOML and changed by dotted overrides (`fedsam.overrides`), and checked before anything starts.
What can be exchanged (datasets, partitions, models, optimizers, corrections, strategies, schedules) is a `Component`: a name and its
hyperparameters, checked by `fedsam.registry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from fedsam.component import Component as Component
from fedsam.component import ConfigError as ConfigError
from fedsam.component import Count as Count
from fedsam.component import CountOrZero, Folder, Frozen, NameOrComponent, as_component
from fedsam.component import Fraction as Fraction
from fedsam.component import Named as Named
from fedsam.component import NonNegative as NonNegative
from fedsam.component import Positive as Positive
from fedsam.component import validated as validated
from fedsam.renamed import with_current_names

# Choices that other modules know by the same names.
Augmentation = Literal["crop", "flip", "cutout"]
Clip = Literal["fl-simulator", "loss-gradient", "everything"]
Weights = Literal["examples", "uniform"]
LastBatch = Literal["keep", "drop", "merge"]
OnClientError = Literal["fail", "drop", "retry"]
Cohorts = tuple[tuple[CountOrZero, ...], ...]  # the clients of each round
FlatnessMeasure = Literal["top", "trace", "worst", "worst_adaptive", "average", "average_adaptive", "line", "plane"]


def _as_sampling(value: object) -> object:
    name = value.get("name") if isinstance(value, Mapping) and set(value) == {"name"} else value
    return name if name in ("fixed", "independent") else as_component(value)


class Data(Frozen):
    """Which examples there are and who holds them."""

    dataset: NameOrComponent = Field("cifar10", description="Dataset, with settings where it is your own; see `fedsam list datasets`.")
    root: Folder | None = Field(None, description="Folder of the dataset files; default: $FEDSAM_DATA, else ~/.cache/fedsam.")
    fallback: str | None = Field(None, description="Dataset to use, loudly, when the wanted one cannot be had.")
    clients: Count = Field(100, description="Population: the number of clients that share the training examples.")
    partition: Named = Field(
        Component(name="dirichlet"), description="How examples are partitioned over clients; see `fedsam list partitions`."
    )
    examples: Count | None = Field(None, description="Use only this many training examples, drawn by seed; default: all.")
    augment: tuple[Augmentation, ...] | None = Field(None, description="Training augmentation; default: the dataset's own.")
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of the training examples, drawn by seed, that no client gets: the server holds them out, and loss and accuracy "
        "on them are measured beside those on the test set.",
    )

    @property
    def source(self) -> Component:
        """The dataset as a component, though it has no hyperparameters."""
        return Component(name=self.dataset) if isinstance(self.dataset, str) else self.dataset


class Client(Frozen):
    """What a client does in a round."""

    optimizer: Named = Field(Component(name="sgd"), description="Local optimizer; see `fedsam list optimizers`.")
    optimizer_state: Literal["fresh", "keep"] = Field(
        "fresh", description="Whether a client's optimizer starts each round anew, or goes on with its state of the client's last round."
    )
    correction: Named = Field(
        Component(name="none"), description="What the algorithm adds to every local step; see `fedsam list corrections`."
    )
    epochs: Count = Field(1, description="Local epochs per round.")
    steps: Count | None = Field(None, description="Local steps per round, instead of epochs.")
    batch_size: Count = Field(50, description="Examples per local step.")
    last_batch: LastBatch = Field("keep", description="A last batch that is smaller: keep it, drop it, or merge it into the one before.")
    schedule: Named = Field(Component(name="constant"), description="Local learning rate over the rounds; see `fedsam list schedules`.")
    rate_floor: Fraction = Field(
        1.0,
        description="Share of the round's learning rate towards which it falls over a client's local steps, along a straight line that "
        "would reach it one step after the last; 1: constant within a round.",
    )
    statistics_batches: CountOrZero = Field(
        0,
        description="Batches passed forward after the last local step, at the weights that it gave, so that running statistics are those "
        "of these weights and not of perturbed ones; 0: none.",
    )
    rho_schedule: Named = Field(
        Component(name="constant"), description="Perturbation radius of the local optimizer over the rounds; see `fedsam list schedules`."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of a training label that is spread evenly over all classes, its own included; training losses are those of such "
        "labels. Papers that spread a share s over the C - 1 other classes have s * C / (C - 1) here.",
    )
    clip: Clip = Field(
        "fl-simulator",
        description="What clip_norm bounds: the gradient with a correction's linear terms, the gradient alone, or with all its terms.",
    )

    @field_validator("optimizer", "correction")
    @classmethod
    def _with_current_name(cls, component: Component, info: ValidationInfo) -> Component:
        given = component.model_dump()
        current = with_current_names(given, f"client.{info.field_name}")
        return component if current == given else Component.model_validate(current)


class Server(Frozen):
    """What the server does in a round."""

    strategy: Named = Field(Component(name="fedavg"), description="Server rule; see `fedsam list strategies`.")
    weights: Weights = Field(
        "examples", description="Weights of the clients in the mean of a cohort: their numbers of examples, or all equal."
    )
    participation: Count | Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Cohort: a whole number is that many clients, a number with a point is a fraction of the population."
    )
    sampling: Annotated[Literal["fixed", "independent"] | Component | Cohorts, BeforeValidator(_as_sampling)] = Field(
        "fixed",
        description="Cohort: so many clients, each client with that probability, the clients listed for each round, or what "
        "`module:attribute` gives; see `fedsam list samplers`.",
    )
    on_client_error: OnClientError = Field(
        "fail",
        description="When a client fails, is late or sends what cannot be used: stop, go on without it, or ask once more and then stop.",
    )
    deadline: Positive | None = Field(
        None,
        description="Seconds after which clients of a round are late, their wait for an actor included (inline: each by itself); "
        "default: none.",
    )
    quorum: Count | Annotated[float, Field(gt=0, le=1)] = Field(
        1, description="Least clients of a cohort whose updates must be usable; a number with a point is a fraction of the cohort."
    )


class Flatness(Frozen):
    """What is measured of the loss around the global vector: by the actors, on training examples of all clients together."""

    measures: tuple[FlatnessMeasure, ...] = Field(
        (),
        description="Top Hessian eigenvalues, its trace, worst-case and average sharpness in a ball (plain, adaptive), loss slices.",
    )
    every: CountOrZero = Field(0, description="Measure every so many rounds, and after the last; 0: only after the last.")
    examples: Count = Field(1000, description="Training examples, drawn by seed, that the loss is taken over; all if there are fewer.")
    batch_size: Count = Field(100, description="Examples in memory at once, and m of the worst-case m-sharpness.")
    eigenvalues: Annotated[int, Field(ge=1, le=45)] = Field(5, description="Top eigenvalues.")
    probes: Annotated[Count, Field(ge=2)] = Field(100, description="Most probes of the trace; it stops at a standard error of 1 %.")
    rho: Positive = Field(0.1, description="Radius of the ball of `worst`.")
    rho_adaptive: Positive = Field(1.0, description="Radius of the ball of `worst_adaptive`, in units of each weight.")
    rho_average: Positive = Field(0.02, description="Standard deviation per weight of `average`.")
    rho_average_adaptive: Positive = Field(0.4, description="Standard deviation of `average_adaptive`, in units of each weight.")
    iterations: Count = Field(20, description="Ascent steps of the worst case.")
    draws: Count = Field(20, description="Draws of the average case.")
    points: Annotated[Count, Field(ge=3)] = Field(21, description="Points of a slice along each direction, from -1 to 1.")


class Measure(Frozen):
    """What is measured, and how often."""

    every: Count = Field(
        1, description="Evaluate the global vector on the test set and data.validation every so many rounds, and after the last."
    )
    test: bool = Field(True, description="Evaluate on the test set; false: the run never looks at it, as in trials of settings.")
    last: Count = Field(5, description="Final accuracy: the mean of so many evaluations at the end of a run.")
    patience: Count | None = Field(
        None,
        description="Stop after so many evaluations in a row without a better accuracy on data.validation; rounds is then the most.",
    )
    clients: bool = Field(False, description="Also have each round's cohort evaluate the new global vector on its own examples.")
    batch_size: Count = Field(500, description="Examples per evaluation batch; a CPU computes at most 100 of them at once.")
    union: bool = Field(True, description="After the last round, also evaluate on the training examples of all clients together.")
    target: Fraction | None = Field(None, description="Test accuracy to reach: tables show what it took; default: chosen by the report.")
    flatness: Flatness = Flatness()


class Compute(Frozen):
    """Where it runs. Nothing here changes a result, `precision` and `shard_size` aside."""

    @model_validator(mode="before")
    @classmethod
    def _without_engine(cls, given: object) -> object:
        """Older files name the only engine that there was."""
        return {key: value for key, value in given.items() if (key, value) != ("engine", "loop")} if isinstance(given, Mapping) else given

    grid: Literal["ray", "inline"] = Field(
        "ray",
        description="ray: actors on this machine or a cluster; inline: the process of the run, for small models and for debugging.",
    )
    actors: Count | None = Field(None, description="Ray actors; default: one per physical core, or one per GPU share.")
    cpus_per_actor: Count = Field(1, description="CPUs, and so torch threads, of an actor.")
    gpus_per_actor: NonNegative = Field(0.0, description="GPU share of an actor, fractions allowed; 0 runs on the CPU.")
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Most of a GPU's memory that an actor may use; default: its share of the GPU, at most all."
    )
    ray_address: str | None = Field(None, description="`auto` or HOST:PORT of a running Ray; default: a private one.")
    allow_unauthenticated_cluster: bool = Field(False, description="Join a running Ray even if it asks for no token.")
    shard_size: Count | None = Field(
        None,
        description="Clients assigned to an actor at once, whose updates it adds up; default: a sixteenth of the cohort, at most 32.",
    )
    precision: Literal["float32", "float64"] = Field("float32", description="Floating-point type of weights and activations.")


class Simulate(Frozen):
    """Clients that differ in speed and leave: a clock that is simulated, not measured. Off unless set."""

    speed: Named | None = Field(None, description="FLOP/s of each client, drawn by seed; see `fedsam list distributions`.")
    bandwidth: Named | None = Field(None, description="Bytes/s of each client, each way, drawn by seed; see `fedsam list distributions`.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Probability that a client leaves a round before it trains.")


class Checkpoint(Frozen):
    """What is kept on disk beside the results table."""

    every: CountOrZero = Field(
        0, description="Write the global model, and a checkpoint to go on from, every so many rounds; 0: only the final model."
    )
    seconds: NonNegative = Field(
        120.0, description="Write a checkpoint after the round in which so many seconds have passed since the last one; 0: never by time."
    )


class Published(Frozen):
    """What was published of a run with these settings; it changes no run."""

    accuracy: Annotated[float, Field(ge=0, le=100)] = Field(description="Test accuracy in percent, as papers print it.")
    interval: NonNegative | None = Field(None, description="What stands behind its ±, in points.")
    source: Annotated[str, Field(min_length=1)] = Field(description="Paper or repository, table, and where it was read.")
    best_round: bool = Field(False, description="Whether it is the accuracy of the best round, not of the last ones.")
    changed: tuple[str, ...] = Field((), description="Settings that the command line changed, so that this is another run than theirs.")


class Experiment(Frozen):
    """One run: every setting, with its default."""

    name: str = Field("", description="Label in tables and figures; default: the method's components.")
    method: str | None = Field(None, description="Preset of optimizer, correction and strategy; see `fedsam list methods`.")
    rounds: Count = Field(30, description="Rounds.")
    budget: Count | None = Field(
        None, description="Stop after the round that reaches so many gradient evaluations; rounds is then the most."
    )
    seed: CountOrZero = Field(0, description="The only source of randomness.")
    runs_dir: Folder = Field(Path("runs"), description="Folder of the results database and the run folders.")
    data: Data = Data()
    model: Named = Field(Component(name="cnn"), description="Network; see `fedsam list models`.")
    client: Client = Client()
    server: Server = Server()
    measure: Measure = Measure()
    compute: Compute = Compute()
    simulate: Simulate = Simulate()
    checkpoint: Checkpoint = Checkpoint()
    published: Annotated[Published | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="What was published of a run with these settings, which reports put beside the measured."
    )

    callbacks: tuple[str, ...] = Field(
        (),
        description="What else is told of a run: tensorboard, mlflow, wandb, or module:attribute of a class derived from fedsam.Callback.",
    )

    def dump(self) -> dict[str, Any]:
        """The experiment as plain values, ready for JSON or TOML; unset optional keys are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def dumps(self) -> str:
        """The experiment as one line of JSON, keys sorted: equal experiments give equal lines."""
        return json.dumps(self.dump(), sort_keys=True)


def parse(settings: Mapping[str, Any]) -> Experiment:
    """Validate plain values as an `Experiment`.

    Raises:
        ConfigError: A key is unknown (the nearest valid one is named) or a value is not allowed.
    """
    return validated(Experiment, settings)
