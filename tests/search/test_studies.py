"""Searches that workers share through Optuna's storages, and that continue when a worker dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
import small_searches

from metajax.errors import ConfigError, MissingExtraError
from metajax.search import studies
from metajax.search.space import Range, architecture_space, check_genome, genome_of, random_genomes, stacked, values_of

SPACE = small_searches.ASKED


def told(shared, count=3, score=1.0):
    trials = studies.ask(shared, count)
    results = [{"num_parameters": 5, "number": trial.number} for trial in trials]
    studies.tell(shared, trials, np.full(count, score), results)
    return trials


@pytest.mark.parametrize("driver", ["tpe", "nsga2", "gp"])
def test_a_study_asks_for_genomes_of_its_space_and_keeps_what_it_is_told(driver):
    if driver == "gp":
        pytest.importorskip("torch")
    shared = studies.open_study(SPACE, driver, population=4)
    for _ in range(3):
        trials = studies.ask(shared, 4)
        genomes = studies.genomes_of(SPACE, trials)
        check_genome(SPACE, genomes, batched=True)
        scores = np.asarray(small_searches.known(genomes))
        results = [{"num_parameters": int(number)} for number in genomes.choices.sum(1)]
        assert studies.tell(shared, trials, scores, results) == 4
    assert len(studies.results_of(shared)) == 12
    assert len(shared.study.directions) == (2 if driver == "nsga2" else 1)
    front = shared.study.best_trials
    assert any(trial.values[0] == max(one.values[0] for one in shared.study.trials) for trial in front)


def test_without_torch_the_gaussian_process_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"driver gp needs the package torch; install .* metajax\[search-gp\]"):
        studies.open_study(SPACE, "gp")


def test_a_genome_goes_through_a_study_and_comes_back():
    own = genome_of(SPACE, depth=2, width_0=16, activation="gelu", skip=True, norm="rms", inner_lr=0.3)
    how = {"params": studies._params(SPACE, own), "distributions": studies._distributions(SPACE)}
    trial = optuna.trial.create_trial(**how, value=0.0)
    found = studies.genomes_of(SPACE, [trial])
    assert found.choices[0].tolist() == own.choices.tolist()
    np.testing.assert_allclose(found.floats[0], own.floats, rtol=1e-5)


def test_values_stay_in_their_range_whatever_rounding_does():
    ranges = [Range(f"rate_{number}", 0.07, 0.1 + number / 70, log=True) for number in range(60)]
    space = architecture_space(ranges=ranges)
    highest = genome_of(space)._replace(floats=jnp.ones(60))
    values = values_of(space, highest)
    assert all(float(values[name]) <= np.float32(high) for name, _, high, _ in ranges)
    found = studies._params(space, highest)
    assert all(found[name] <= high for name, _, high, _ in ranges)
    assert any(low * (high / low) ** 1.0 > high for _, low, high, _ in ranges)


def test_what_a_dead_worker_was_evaluating_is_asked_for_again():
    one = studies.open_study(SPACE, "tpe", lease=10)
    other = one._replace(worker="other")
    lost = studies.ask(one, 2, now=lambda: 1000.0)
    assert studies.reclaim(other, now=lambda: 1009.0) == 0  # its lease still holds
    assert studies.num_running(other) == 2
    again = studies.ask(other, 2, now=lambda: 1011.0)
    assert [trial.params for trial in again] == [trial.params for trial in lost]
    assert [trial.user_attrs["worker"] for trial in again] == ["other"] * 2
    assert studies.reclaim(one, now=lambda: 1012.0) == 0
    # The first worker was slow, not dead: the results that it tells now are dropped.
    assert studies.tell(one, lost, np.ones(2), [{"num_parameters": 1}] * 2) == 0
    assert studies.tell(other, again, np.ones(2), [{"num_parameters": 1}] * 2) == 2
    assert len(studies.results_of(one)) == 2


def test_a_study_that_is_opened_again_draws_on(tmp_path):
    def asked():
        shared = studies.open_study(SPACE, "tpe", storage=f"journal:{tmp_path / 'study'}", population=8, seed=3)
        return [trial.params for trial in told(shared, 2)]

    first, second = asked(), asked()
    assert not [params for params in second if params in first]


def test_a_result_that_was_written_but_not_told_is_told_by_whoever_reclaims_it(monkeypatch):
    one = studies.open_study(SPACE, "nsga2", lease=10)
    lost, slow = studies.ask(one, 2, now=lambda: 1000.0)
    with monkeypatch.context() as patch:
        patch.setattr(studies, "_end", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))  # killed before it told
        for trial, score in ((lost, 3.0), (slow, np.nan)):
            with pytest.raises(KeyboardInterrupt):
                studies.tell(one, [trial], [score], [{"num_parameters": 7}])
    assert studies.results_of(one) == []
    assert studies.reclaim(one._replace(worker="other"), now=lambda: 1011.0) == 0
    assert studies.results_of(one) == [{"num_parameters": 7}] * 2
    assert [trial.state.name for trial in one.study.trials] == ["COMPLETE", "FAIL"]
    assert one.study.trials[0].values == [3.0, 7.0]
    assert studies.reclaim(one, now=lambda: time.time() + 1e6) == 0


def test_a_genome_that_kills_its_workers_is_asked_for_again_three_times():
    shared = studies.open_study(SPACE, "tpe", lease=10)
    first = studies.ask(shared, 1, now=lambda: 0.0)[0].params
    for number in range(1, 5):
        assert studies.reclaim(shared, now=lambda number=number: 20.0 * number) == (number < 4)
        if number < 3:
            assert studies.ask(shared, 1, now=lambda number=number: 20.0 * number)[0].params == first
        elif number == 3:  # killed before it suggested anything
            trial = shared.study.ask()
            trial.set_user_attr("lease", 60.0)
            assert trial.params == {}
    assert [trial.state.name for trial in shared.study.trials] == ["FAIL"] * 4
    assert studies.reclaim(shared, now=lambda: time.time() + 1e6) == 0


def test_what_failed_without_being_queued_is_queued_by_the_next_to_reclaim(monkeypatch):
    shared = studies.open_study(SPACE, "tpe", lease=10)
    (lost,) = studies.ask(shared, 1, now=lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(studies, "_queue_again", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            studies.reclaim(shared)
    assert studies.reclaim(shared) == 0  # the worker that failed it may still queue it
    assert studies.reclaim(shared, now=lambda: time.time() + 11) == 1
    assert studies.reclaim(shared, now=lambda: time.time() + 11) == 0
    assert studies.ask(shared, 1)[0].params == lost.params


def test_one_killed_before_it_took_a_lease_is_asked_for_again_too():
    shared = studies.open_study(SPACE, "tpe", lease=10)
    trial = shared.study.ask(studies._distributions(SPACE))
    assert studies.reclaim(shared) == 0
    assert studies.reclaim(shared, now=lambda: time.time() + 11) == 1
    assert studies.ask(shared, 1)[0].params == trial.params


def test_a_lease_is_renewed_while_it_is_held():
    shared = studies.open_study(SPACE, "tpe", lease=2.0)
    trials = studies.ask(shared, 1)
    with studies.holding(shared, trials):
        time.sleep(3.0)
        assert studies.reclaim(shared) == 0
    assert studies.reclaim(shared, now=lambda: time.time() + 3.0) == 1


def test_a_score_that_is_not_finite_fails_and_is_not_asked_for_again():
    shared = studies.open_study(SPACE, "tpe")
    told(shared, 2, score=-np.inf)
    assert len(studies.results_of(shared)) == 2
    assert studies.reclaim(shared, now=lambda: time.time() + 1e6) == 0
    assert {trial.state.name for trial in shared.study.trials} == {"FAIL"}


def test_a_study_of_another_search_is_told(tmp_path):
    storage = f"journal:{tmp_path / 'study'}"
    told(studies.open_study(SPACE, "tpe", storage=storage, about="maml"))
    assert len(studies.results_of(studies.open_study(SPACE, "tpe", storage=storage, about="maml"))) == 3
    with pytest.raises(ConfigError, match=r"the study 'metajax' in journal:.* is of another search"):
        studies.open_study(architecture_space(), "tpe", storage=storage, about="maml")
    with pytest.raises(ConfigError, match="is of another search"):
        studies.open_study(SPACE, "tpe", storage=storage, about="rl2")
    with pytest.raises(ConfigError, match="has 1 objectives, but nsga2 has 2; use another name"):
        studies.open_study(SPACE, "nsga2", storage=storage, about="maml")


@pytest.mark.parametrize(
    "storage",
    [
        "journal:/not/there/study",
        "postgresql+psycopg2://nobody@127.0.0.1:1/none",
        "sqlite:////not/there/study.db",
        "nosuchdb://host/name",
        "grpc://127.0.0.1:1",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_error(storage, monkeypatch):
    if storage.startswith("postgresql"):
        pytest.importorskip("psycopg2")
    if storage.startswith("grpc"):
        pytest.importorskip("grpc")
        monkeypatch.setattr(studies, "_WAIT", 1)
    with pytest.raises(ConfigError, match=re.escape(f"storage='{storage}' cannot be reached: ")) as caught:
        studies.open_study(SPACE, "tpe", storage=storage)
    assert "\n" not in str(caught.value)


def test_a_database_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConfigError, match=r"needs the package psycopg2; install .* metajax\[search-postgresql\]"):
        studies.open_study(SPACE, "tpe", storage="postgresql://nobody@127.0.0.1:1/none")


def test_a_storage_that_is_none_is_told():
    with pytest.raises(ConfigError, match=r"storage='study.db' must be journal:PATH, grpc://HOST:PORT or the URL"):
        studies.open_study(SPACE, "tpe", storage="study.db")
    with pytest.raises(ConfigError, match="unknown driver 'gpp'; did you mean gp"):
        studies.open_study(SPACE, "gpp")


# A worker that evaluates nothing, but prints when it begins an evaluation; it can run in a separate process.
WORKER = """
import sys, time
import numpy as np
from metajax.search import studies
from metajax.search.space import Range, architecture_space
space = architecture_space(depth=(1, 2), width=(4, 8, 16), ranges=[Range("inner_lr", 0.01, 1.0, log=True)])
storage, worker, budget, hangs = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "hangs"
shared = studies.open_study(space, "tpe", storage=storage, worker=worker, lease=4.0, population=4)
while len(studies.results_of(shared)) < budget:
    studies.reclaim(shared)
    count = min(3, budget - len(studies.results_of(shared)) - studies.num_running(shared))
    if count <= 0:
        time.sleep(0.1)
        continue
    trials = studies.ask(shared, count)
    with studies.holding(shared, trials):
        if hangs and len(studies.results_of(shared)) >= 3:
            print("evaluating", *(trial.number for trial in trials), flush=True)
            time.sleep(600)
        time.sleep(0.05)
    results = [{"num_parameters": 1, "number": trial.number, "params": trial.params} for trial in trials]
    studies.tell(shared, trials, np.arange(count, dtype=float), results)
"""


def two_workers_of_which_one_is_killed(storage):
    """The study after one worker was killed during an evaluation and the other worker completed the budget."""
    command = [sys.executable, "-c", WORKER, storage, "killed", "15", "hangs"]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lost = list(map(int, killed.stdout.readline().split()[1:]))  # it is evaluating these trials
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", storage, "survivor", "15", "goes on"])
        exec(WORKER, {})
    return lost, studies.open_study(SPACE, "tpe", storage=storage, lease=4.0)


def check_nothing_else_was_lost(lost, shared):
    trials = {trial.number: trial for trial in shared.study.trials}
    assert len(lost) == 3
    assert [trials[number].state.name for number in lost] == ["FAIL"] * 3
    again = {trial.user_attrs["again"]: trial for trial in trials.values() if "again" in trial.user_attrs}
    assert sorted(again) == sorted(lost)
    for number, trial in again.items():
        assert trial.params == trials[number].params
        assert trial.state.name == "COMPLETE"
        assert trial.user_attrs["worker"] == "survivor"
    assert len(studies.results_of(shared)) == 15
    assert {trial.state.name for trial in trials.values()} == {"COMPLETE", "FAIL"}
    workers = [trial.user_attrs["worker"] for trial in trials.values() if trial.state.name == "COMPLETE"]
    assert set(workers) == {"killed", "survivor"}  # results that the dead worker told are kept


@pytest.mark.slow
def test_two_processes_share_a_journal_and_one_is_killed(tmp_path):
    check_nothing_else_was_lost(*two_workers_of_which_one_is_killed(f"journal:{tmp_path / 'study'}"))


@pytest.fixture
def postgresql(tmp_path):
    """The URL of a database: METAJAX_TEST_POSTGRESQL, or a server of Debian's packages that the test starts."""
    pytest.importorskip("psycopg2")
    if "METAJAX_TEST_POSTGRESQL" in os.environ:
        yield os.environ["METAJAX_TEST_POSTGRESQL"]
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server")
    # The server does not run as root; Debian's package creates a user for it.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    folder, programs = tmp_path / "database", found[-1].parent
    for path in (tmp_path, *tmp_path.parents):  # only folders of pytest, which otherwise only its user may enter
        if path != tmp_path and not path.name.startswith(("pytest-", "popen-")):
            break
        path.chmod(0o755)
    folder.mkdir()
    if as_user:
        subprocess.run(["chown", "-R", "postgres", str(folder)], check=True)

    def call(*command):
        subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd=folder)

    data = folder / "data"
    call(programs / "initdb", "-D", data, "-A", "trust", "-U", "metajax")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    call(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://metajax@/postgres?host={folder}"
    finally:
        call(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.slow
def test_two_processes_share_a_database_and_one_is_killed(postgresql):
    check_nothing_else_was_lost(*two_workers_of_which_one_is_killed(postgresql))


def test_a_proxy_stands_before_a_storage(tmp_path):
    pytest.importorskip("grpc")
    code = (
        "import optuna, sys; backend = optuna.storages.journal.JournalFileBackend(sys.argv[1]);"
        "storage = optuna.storages.JournalStorage(backend);"
        "optuna.storages.run_grpc_proxy_server(storage, host='localhost', port=int(sys.argv[2]))"
    )
    path, port = tmp_path / "study", "13927"
    server = subprocess.Popen([sys.executable, "-c", code, str(path), port], stderr=subprocess.DEVNULL)
    try:
        shared = studies.open_study(SPACE, "tpe", storage=f"grpc://localhost:{port}")
        told(shared)
        behind = studies.open_study(SPACE, "tpe", storage=f"journal:{path}")
        assert len(studies.results_of(behind)) == len(studies.results_of(shared)) == 3
    finally:
        server.kill()
        server.wait()


def test_the_choice_that_matters_is_the_most_important():
    genomes = random_genomes(jax.random.key(0), SPACE, 60)
    found = studies.importances(
        SPACE, genomes, 10.0 * np.asarray(genomes.choices[:, 1]) + np.asarray(small_searches.known(genomes))
    )
    assert max(found, key=found.get) == "width_0"
    assert stacked([genome_of(SPACE)] * 2).choices.shape == (2, len(SPACE.genes))
