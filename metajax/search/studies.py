"""Optuna's samplers as drivers, and its storages as what many workers share: the extra `search`.

A trial carries its worker and a lease, which the worker renews while it evaluates. Optuna's own heartbeat leaves out
trials that are asked for and told, so what a dead worker was evaluating would go on for ever; here it fails when its
lease is over, and the same genome is asked for again, unless it had a result that was not told yet.
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
_AGAIN, _TIMES = "again", "times"  # the trial that one repeats, and how many before it had this genome
_MOST_TIMES = 3  # that a genome is asked for again, since it may be what kills the workers
_WAIT = 5  # seconds for a server to answer


class Shared(NamedTuple):
    """A study of a space by one worker, whose trials hold leases of `lease` seconds."""

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
    """A study, gone on with if the storage has one of this name; all its workers ask and tell on their own.

    Raises ConfigError if the storage cannot be reached or holds a study of another space or of other objectives, and
    MissingExtraError without Optuna, without torch for `gp`, or without the driver of a PostgreSQL database.

    Args:
        space: what there is to choose.
        driver: gp, a Gaussian process; tpe, Parzen estimators; nsga2, a genetic algorithm for two objectives, the
            score and the number of parameters.
        storage: see `open_storage`.
        name: of the study.
        about: what besides the space its results depend on.
        worker: who asks; every worker has a name of its own.
        lease: seconds after which what a worker does not renew is asked for again.
        population: trials before the sampler follows a model; genomes of a generation of nsga2.
        seed: of the sampler, with the worker's name and the number of trials that there are.

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
        # One that goes on must not draw again what it drew as it began.
        sequence = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False)), *worker.encode()])
        study.sampler = _sampler(optuna, driver, population, int(sequence.generate_state(1)[0]))
        held = study.user_attrs.get(_SPACE)
        if held is None:
            study.set_user_attr(_SPACE, identity)
    if held not in (None, identity):
        raise ConfigError(
            f"the study {name!r} in {storage} is of another search: {held}, not {identity}; choose another name"
        )
    if len(study.directions) != len(directions):
        raise ConfigError(f"the study {name!r} in {storage} has {len(study.directions)} objectives; {driver} another")
    return Shared(study, space, worker, lease)


def _optuna(needed_by: str) -> Any:
    optuna = import_extra("optuna", extra="search", needed_by=f"driver {needed_by}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if needed_by == "gp":
        # Its matrices are small; on several threads they take many times as long.
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
    """Optuna's storage: "" is this process's memory; journal:PATH a file; grpc://HOST:PORT a proxy; else an RDB's URL.

    The proxy is `optuna.storages.run_grpc_proxy_server`, before any of the others. Raises MissingExtraError where a
    package that it needs is missing.
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
            f"storage={storage!r} must read journal:PATH, grpc://HOST:PORT or the URL of a database, such as "
            "postgresql+psycopg2://USER@HOST/NAME"
        )
    if storage.startswith(("postgresql://", "postgresql+psycopg2://")):
        import_extra("psycopg2", extra="search-postgresql", needed_by=f"storage {storage}")
    return optuna.storages.RDBStorage(storage, engine_kwargs=_patience(storage))


def _patience(storage: str) -> dict[str, Any]:
    """A limit on how long a server is waited for, where the driver has one."""
    if storage.startswith(("postgresql", "mysql")):
        return {"connect_args": {"connect_timeout": _WAIT}, "pool_pre_ping": True}
    return {}


def _grpc(optuna: Any, storage: str) -> Any:
    import_extra("grpc", extra="search", needed_by=f"storage {storage}")
    host, _, port = storage.removeprefix("grpc://").partition(":")
    if not port.isdecimal():
        raise ConfigError(f"storage={storage!r} must name a port, as grpc://HOST:PORT")
    with _quiet_about_experiments(optuna):
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    proxy.wait_server_ready(timeout=_WAIT)
    return proxy


@contextmanager
def _told_in_one_line(storage: str) -> Iterator[None]:
    """Whatever a storage that cannot be reached raises, as one ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # each storage has errors of its own
        raise ConfigError(f"storage={storage!r} cannot be reached: {first_line(error)}") from error


def ask(shared: Shared, count: int, *, now: Callable[[], float] = time.time) -> list[Any]:
    """Trials to be evaluated, leased to this worker; first those again whose worker does not renew its lease."""
    reclaim(shared, now=now)
    trials = []
    for _ in range(count):
        trial = shared.study.ask(_distributions(shared.space))
        trial.set_user_attr(_WORKER, shared.worker)
        trial.set_user_attr(_LEASE, now() + shared.lease)
        trials.append(trial)
    return trials


def reclaim(shared: Shared, *, now: Callable[[], float] = time.time) -> int:
    """Ends the running trials whose lease is over, and queues their genomes anew; returns how many it queued.

    One whose result was written is told instead. A genome is queued three times at most. What failed a lease ago
    without being queued, its reclaimer having been killed, is queued too.
    """
    optuna, study, failed, count = _optuna("storage"), shared.study, set(), 0
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        # One killed before it said so has held a lease from its start on.
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
        # What another worker failed it has had time to queue, unless it was killed.
        if trial.number in failed or trial.datetime_complete.timestamp() + shared.lease <= now():
            count += _queue_again(study, trial)
    return count


def _queue_again(study: Any, trial: Any) -> bool:
    """Queues a trial's genome unless it was often enough; one killed before it suggested has it as fixed."""
    times = trial.user_attrs.get(_TIMES, 0) + 1
    if times > _MOST_TIMES:
        return False
    params = trial.system_attrs.get("fixed_params", {}) | trial.params
    study.enqueue_trial(params, user_attrs={_AGAIN: trial.number, _TIMES: times})
    return True


def _end(shared: Shared, number: int, score: float | None, result: dict[str, Any]) -> None:
    """Tells what a trial scored, None for what is not finite; raises ValueError if it was told before."""
    states = _optuna("storage").trial.TrialState
    if score is None:
        shared.study.tell(number, state=states.FAIL)
        return
    values = [score, float(result["num_parameters"])][: len(shared.study.directions)]
    shared.study.tell(number, values, state=states.COMPLETE)


@contextmanager
def holding(shared: Shared, trials: Sequence[Any]) -> Iterator[None]:
    """Renews the leases of trials, from a thread, while they are evaluated."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(shared.lease / 3):
            for trial in trials:
                with suppress(Exception):  # what is not renewed is asked for again, and this one's result is dropped
                    trial.set_user_attr(_LEASE, time.time() + shared.lease)

    keeper = threading.Thread(target=renew, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def tell(shared: Shared, trials: Sequence[Any], scores: np.ndarray, results: Sequence[dict[str, Any]]) -> int:
    """Tells what trials scored, and keeps their results with them; returns how many were still this worker's.

    One that is not finite fails. `results` have the number of parameters, nsga2's second objective.
    """
    optuna, count = _optuna("storage"), 0
    for trial, score, result in zip(trials, scores, results, strict=True):
        known = float(score) if np.isfinite(score) else None
        try:
            trial.set_user_attr(_SCORE, known)
            trial.set_user_attr(_RESULT, result)  # from here on whoever reclaims it tells it
            _end(shared, trial.number, known, result)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue
        count += 1
    return count


def results_of(shared: Shared) -> list[dict[str, Any]]:
    """The results of all trials that any worker has told, in their order, those that were not finite among them."""
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
    """What Optuna draws from; of an ordered choice its number, so that near options count as such."""
    of = import_extra("optuna", extra="search", needed_by="a study").distributions
    found = {}
    for gene in space.genes:
        if len(gene.options) > 1:
            last = len(gene.options) - 1
            found[gene.name] = of.IntDistribution(0, last) if gene.ordered else of.CategoricalDistribution(gene.options)
    return found | {one.name: of.FloatDistribution(one.low, one.high, log=one.log) for one in space.ranges}


def importances(space: Space, genomes: Genome, scores: np.ndarray) -> dict[str, float]:
    """How much each choice matters for the score among genomes [P], by PED-ANOVA (Watanabe et al. 2023, 2304.10255).

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
    """A genome as Optuna's parameters."""
    found: dict[str, Any] = {}
    for gene, index in zip(space.genes, genome.choices.tolist(), strict=True):
        found[gene.name] = index if gene.ordered else gene.options[index]
    for (name, low, high, log), share in zip(space.ranges, genome.floats.tolist(), strict=True):
        value = low * (high / low) ** share if log else low + (high - low) * share
        found[name] = min(max(value, low), high)  # rounding may leave the range, which Optuna refuses
    return found


def num_running(shared: Shared) -> int:
    """Trials that some worker is evaluating; those queued to be evaluated again are not among them."""
    states = _optuna("storage").trial.TrialState
    return len(shared.study.get_trials(deepcopy=False, states=(states.RUNNING,)))
