"""Drivers from Optuna's samplers, and studies that several workers share through Optuna's storages (extra `search`).

Every trial stores its worker and a lease, which the worker renews during the evaluation. Optuna's own heartbeat does
not cover trials of the ask-and-tell interface, so a trial of a dead worker would stay running for ever. Here such a
trial fails when its lease expires, and its genome is queued again. If the trial already has a result, this is told.
"""

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metajax.errors import ConfigError, check_choice, check_count, check_number, first_line, import_extra
from metajax.search.space import Genome, Space, fingerprint, genome_of, stacked

STUDY_DRIVERS = ("gp", "tpe", "nsga2")
_SPACE, _WORKER, _LEASE, _SCORE, _RESULT = "space", "worker", "lease", "score", "result"
_AGAIN, _TIMES = "again", "times"  # the trial that this one repeats, and how often its genome was repeated
_MOST_TIMES = 3  # maximum number of repetitions, because a genome may itself kill its workers
_WAIT = 5  # timeout in seconds for the answer of a server


class Shared(NamedTuple):
    """A study of a space, used by one worker; its trials have leases of `lease` seconds."""

    study: Any
    space: Space
    worker: str
    lease: float


def open_study(
    space: Space,
    driver: str,
    *,
    storage: str = "",
    name: str = "metajax",
    about: str = "",
    worker: str = "worker",
    lease: float = 60.0,
    population: int = 16,
    seed: int = 0,
) -> Shared:
    """Opens a study, which continues if the storage has one of this name. Its workers ask and tell independently.

    Raises ConfigError if the storage cannot be reached or has a study of this name with another space or other
    objectives. Raises MissingExtraError without Optuna, without torch for `gp`, or without the PostgreSQL driver.

    Args:
        space: the search space.
        driver: gp (Gaussian process), tpe (tree-structured Parzen estimators) or nsga2 (a genetic algorithm for two
            objectives, the score and the number of parameters).
        storage: storage of the study, see `open_storage`.
        name: name of the study.
        about: description of everything but the space that results depend on; it identifies the study too.
        worker: name of this worker, unique among the workers of the study.
        lease: seconds after which a trial that its worker does not renew is queued again.
        population: number of random trials before the sampler uses its model; genomes per generation of nsga2.
        seed: random seed of the sampler, combined with the worker's name and the number of existing trials.

    >>> from metajax.search.space import architecture_space
    >>> shared = open_study(architecture_space(), "tpe")
    >>> trials = ask(shared, 2)
    >>> genomes_of(shared.space, trials).choices.shape
    (2, 7)
    """
    check_choice("driver", driver, STUDY_DRIVERS)
    check_number("lease", lease, above=0)
    check_count("population", population, at_least=2)
    optuna = _optuna(driver)
    directions = ["maximize", "minimize"] if driver == "nsga2" else ["maximize"]
    identity = fingerprint(space) + about
    with _told_in_one_line(storage):
        study = optuna.create_study(
            storage=open_storage(storage), study_name=name, directions=directions, load_if_exists=True
        )
        # A study that continues must not repeat its first draws.
        sequence = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False)), *worker.encode()])
        study.sampler = _sampler(optuna, driver, population, int(sequence.generate_state(1)[0]))
        held = study.user_attrs.get(_SPACE)
        if held is None:
            study.set_user_attr(_SPACE, identity)
    if held not in (None, identity):
        raise ConfigError(
            f"the study {name!r} in {storage} is of another search: {held}, not {identity}; use another name"
        )
    if len(study.directions) != len(directions):
        raise ConfigError(
            f"the study {name!r} in {storage} has {len(study.directions)} objectives, but {driver} has "
            f"{len(directions)}; use another name"
        )
    return Shared(study, space, worker, lease)


def _optuna(needed_by: str) -> Any:
    optuna = import_extra("optuna", extra="search", needed_by=f"driver {needed_by}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if needed_by == "gp":
        # Its matrices are small, and several threads would make it many times slower.
        import_extra("torch", extra="search-gp", needed_by="driver gp").set_num_threads(1)
    return optuna


def _sampler(optuna: Any, driver: str, population: int, seed: int) -> Any:
    if driver == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=population)
    if driver == "tpe":
        with _quiet_about_experiments(optuna):
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=population, multivariate=True)
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)


@contextmanager
def _quiet_about_experiments(optuna: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(storage: str) -> Any:
    """Opens Optuna's storage: "" (in memory), journal:PATH (a file), grpc://HOST:PORT (a proxy) or a database's URL.

    `optuna.storages.run_grpc_proxy_server` runs a proxy for any of the other storages. Raises ConfigError if the
    storage is not of one of these forms, and MissingExtraError if a package that it needs is not installed.
    """
    optuna = _optuna("storage")
    if not storage:
        return None
    if storage.startswith("journal:"):
        path = Path(storage.removeprefix("journal:"))
        if not path.parent.is_dir():
            raise ConfigError(f"storage={storage!r} cannot be reached: there is no folder {path.parent}")
        backend = optuna.storages.journal
        return optuna.storages.JournalStorage(backend.JournalFileBackend(str(path)))
    if storage.startswith("grpc://"):
        return _grpc(optuna, storage)
    if "://" not in storage:
        raise ConfigError(
            f"storage={storage!r} must be journal:PATH, grpc://HOST:PORT or the URL of a database, such as "
            "postgresql+psycopg2://USER@HOST/NAME"
        )
    if storage.startswith(("postgresql://", "postgresql+psycopg2://")):
        import_extra("psycopg2", extra="search-postgresql", needed_by=f"storage {storage}")
    return optuna.storages.RDBStorage(storage, engine_kwargs=_patience(storage))


def _patience(storage: str) -> dict[str, Any]:
    """Engine options that limit the time to connect to a server, for drivers that have such a limit."""
    if storage.startswith(("postgresql", "mysql")):
        return {"connect_args": {"connect_timeout": _WAIT}, "pool_pre_ping": True}
    return {}


def _grpc(optuna: Any, storage: str) -> Any:
    import_extra("grpc", extra="search", needed_by=f"storage {storage}")
    host, _, port = storage.removeprefix("grpc://").partition(":")
    if not port.isdecimal():
        raise ConfigError(f"storage={storage!r} must have a port, as in grpc://HOST:PORT")
    with _quiet_about_experiments(optuna):
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    proxy.wait_server_ready(timeout=_WAIT)
    return proxy


@contextmanager
def _told_in_one_line(storage: str) -> Iterator[None]:
    """Turns any exception of a storage into a ConfigError of one line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # each storage has its own exceptions
        raise ConfigError(f"storage={storage!r} cannot be reached: {first_line(error)}") from error


def ask(shared: Shared, count: int, *, now: Callable[[], float] = time.time) -> list[Any]:
    """Trials to evaluate, leased to this worker. Trials whose lease expired are repeated first."""
    reclaim(shared, now=now)
    trials = []
    for _ in range(count):
        trial = shared.study.ask(_distributions(shared.space))
        trial.set_user_attr(_WORKER, shared.worker)
        trial.set_user_attr(_LEASE, now() + shared.lease)
        trials.append(trial)
    return trials


def reclaim(shared: Shared, *, now: Callable[[], float] = time.time) -> int:
    """Fails the running trials whose lease expired and queues their genomes again; returns the number queued.

    A trial with a stored result is told instead. A genome is repeated at most three times. It also queues the genome of
    a trial that failed a lease ago and was not queued, because the worker that failed it was killed.
    """
    optuna, study, failed, count = _optuna("storage"), shared.study, set(), 0
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        # A worker may be killed before it stores the lease: the lease then begins with the trial.
        if trial.user_attrs.get(_LEASE, trial.datetime_start.timestamp() + shared.lease) > now():
            continue
        try:
            if _RESULT in trial.user_attrs:
                _end(shared, trial.number, trial.user_attrs[_SCORE], trial.user_attrs[_RESULT])
                continue
            study.tell(trial.number, state=states.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another worker was first
            continue
        failed.add(trial.number)
    trials = study.get_trials(deepcopy=False)
    followed = {trial.user_attrs.get(_AGAIN) for trial in trials}
    for trial in trials:
        if trial.state != states.FAIL or _RESULT in trial.user_attrs or trial.number in followed:
            continue
        # Another worker that failed this trial has had time to queue its genome, unless it was killed.
        if trial.number in failed or trial.datetime_complete.timestamp() + shared.lease <= now():
            count += _queue_again(study, trial)
    return count


def _queue_again(study: Any, trial: Any) -> bool:
    """Queues the genome of a trial, unless it was repeated too often; returns whether it was queued.

    A trial whose worker was killed before it suggested parameters has them as `fixed_params`.
    """
    times = trial.user_attrs.get(_TIMES, 0) + 1
    if times > _MOST_TIMES:
        return False
    params = trial.system_attrs.get("fixed_params", {}) | trial.params
    study.enqueue_trial(params, user_attrs={_AGAIN: trial.number, _TIMES: times})
    return True


def _end(shared: Shared, number: int, score: float | None, result: dict[str, Any]) -> None:
    """Tells the score of a trial; None, for a score that is not finite, fails it. Raises ValueError if already told."""
    states = _optuna("storage").trial.TrialState
    if score is None:
        shared.study.tell(number, state=states.FAIL)
        return
    values = [score, float(result["num_parameters"])][: len(shared.study.directions)]
    shared.study.tell(number, values, state=states.COMPLETE)


@contextmanager
def holding(shared: Shared, trials: Sequence[Any]) -> Iterator[None]:
    """A context that renews the leases of trials from a thread while they are evaluated."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(shared.lease / 3):
            for trial in trials:
                with suppress(Exception):  # a trial that is not renewed is repeated
                    trial.set_user_attr(_LEASE, time.time() + shared.lease)

    keeper = threading.Thread(target=renew, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def tell(shared: Shared, trials: Sequence[Any], scores: np.ndarray, results: Sequence[dict[str, Any]]) -> int:
    """Tells the scores of trials and stores their results; returns how many trials still belonged to this worker.

    A trial with a score that is not finite fails. `results` have the number of parameters, nsga2's second objective.
    """
    optuna, count = _optuna("storage"), 0
    for trial, score, result in zip(trials, scores, results, strict=True):
        known = float(score) if np.isfinite(score) else None
        try:
            trial.set_user_attr(_SCORE, known)
            trial.set_user_attr(_RESULT, result)  # from here on, a worker that reclaims the trial tells it
            _end(shared, trial.number, known, result)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue
        count += 1
    return count


def results_of(shared: Shared) -> list[dict[str, Any]]:
    """The results of all trials that any worker has told, in the order of the trials, including failed ones."""
    optuna = _optuna("storage")
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    trials = shared.study.get_trials(deepcopy=False, states=states)
    return [trial.user_attrs[_RESULT] for trial in trials if _RESULT in trial.user_attrs]


def genomes_of(space: Space, trials: Sequence[Any]) -> Genome:
    """The genomes [P] of trials."""
    found = []
    for trial in trials:
        named = dict(trial.params)
        for gene in space.genes:
            if gene.name in named and gene.ordered:
                named[gene.name] = gene.options[named[gene.name]]
        found.append(genome_of(space, **named))
    return stacked(found)


def _distributions(space: Space) -> dict[str, Any]:
    """Optuna's distributions by name. An ordered choice is an integer, so that Optuna sees which options are close."""
    of = import_extra("optuna", extra="search", needed_by="a study").distributions
    found = {}
    for gene in space.genes:
        if len(gene.options) > 1:
            last = len(gene.options) - 1
            found[gene.name] = of.IntDistribution(0, last) if gene.ordered else of.CategoricalDistribution(gene.options)
    return found | {one.name: of.FloatDistribution(one.low, one.high, log=one.log) for one in space.ranges}


def importances(space: Space, genomes: Genome, scores: np.ndarray) -> dict[str, float]:
    """Importance of each choice for the scores [P] of genomes [P], by PED-ANOVA (Watanabe et al. 2023, 2304.10255).

    >>> from metajax.search.space import architecture_space, random_genomes
    >>> import jax
    >>> space = architecture_space(depth=(1, 2), activation=("tanh", "relu"), skip=(False,), norm=("none",))
    >>> genomes = random_genomes(jax.random.key(0), space, 40)
    >>> max(found := importances(space, genomes, np.asarray(genomes.choices[:, 3], float)), key=found.get)
    'activation'
    """
    optuna = _optuna("importances")
    study, distributions = optuna.create_study(direction="maximize"), _distributions(space)
    kept = np.flatnonzero(np.isfinite(scores))
    for index in kept:
        params = _params(space, Genome(*(np.asarray(leaf)[index] for leaf in genomes)))
        params = {name: params[name] for name in distributions}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=float(scores[index]))
        )
    with _quiet_about_experiments(optuna):
        return dict(optuna.importance.get_param_importances(study))


def _params(space: Space, genome: Genome) -> dict[str, Any]:
    """The parameters of a genome as Optuna names and stores them."""
    found: dict[str, Any] = {}
    for gene, index in zip(space.genes, genome.choices.tolist(), strict=True):
        found[gene.name] = index if gene.ordered else gene.options[index]
    for (name, low, high, log), share in zip(space.ranges, genome.floats.tolist(), strict=True):
        value = low * (high / low) ** share if log else low + (high - low) * share
        found[name] = min(max(value, low), high)  # rounding may leave the range, which Optuna refuses
    return found


def num_running(shared: Shared) -> int:
    """The number of trials that workers are evaluating; queued trials do not count."""
    states = _optuna("storage").trial.TrialState
    return len(shared.study.get_trials(deepcopy=False, states=(states.RUNNING,)))
