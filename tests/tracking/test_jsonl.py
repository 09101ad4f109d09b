"""JSON lines in a folder: its layout, its names, its URIs."""

import json

import numpy as np
import pytest

from matplotlib.image import imread

from pymc_vi_ext.tracking import JsonlTracker, RunStatus


def events(folder, run_id):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    lines = (folder / run_id / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def tracker(tmp_path):
    return JsonlTracker(f"jsonl:{tmp_path}/store")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def test_a_folder_per_comparison_execution_and_run(tracker, folder):
    assert not folder.exists()
    execution = tracker.begin("gamma", ["nuts seed 1", "advi seed 1"], {"model": "gamma"})
    comparison, started, child = execution.children[1].split("/")
    assert execution.parent == f"{comparison}/{started}"
    assert (comparison, child) == ("gamma", "01 advi seed 1")
    (begun,) = events(folder, execution.parent)
    assert begun["comparison"] == "gamma"
    assert begun["tags"] == {"model": "gamma"}
    assert events(folder, execution.children[0])[0]["name"] == "nuts seed 1"


def test_lines_are_json_even_where_numbers_are_not(tracker, folder):
    run_id = tracker.begin("a", ["b"], {}).children[0]
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    tracker.log_series(run_id, "x", np.arange(4), values)
    read = [event["value"] for event in events(folder, run_id)[1:]]
    assert read == [1.0, "NaN", "Infinity", "-Infinity"]
    np.testing.assert_array_equal([float(value) for value in read], values)


def test_images_and_files_lie_beside_the_events(tracker, folder, tmp_path):
    run_id = tracker.begin("a", ["b"], {}).children[0]
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    tracker.log_image(run_id, "kde/x", image)
    tracker.log_text(run_id, "one\r\ntwo\n", "note.txt")
    (tmp_path / "losses.npz").write_bytes(b"\0")
    tracker.log_file(run_id, tmp_path / "losses.npz")
    found = files(folder / run_id)
    assert found == ["events.jsonl", "files/losses.npz", "files/note.txt", "images/kde/x.png"]
    stored = imread(folder / run_id / "images/kde/x.png")[..., :3]
    np.testing.assert_array_equal(np.round(stored * 255), image)
    assert [e["path"] for e in events(folder, run_id)[1:]] == [
        "images/kde/x.png", "files/note.txt", "files/losses.npz",
    ]  # fmt: skip


def test_writing_again_changes_no_byte(tracker, folder):
    run_id = tracker.begin("a", ["b"], {}).children[0]
    before = None
    for _ in range(3):
        again = JsonlTracker(tracker.uri)
        again.log_params(run_id, {"n": 1})
        again.log_metrics(run_id, {"x": float("nan"), "y": 0.1})
        again.log_image(run_id, "i", np.zeros((2, 2, 3), np.uint8))
        again.log_text(run_id, "t", "t.txt")
        again.end(run_id, RunStatus.FAILED)
        now = {name: (folder / name).read_bytes() for name in files(folder)}
        assert now == (before or now)
        before = now


NAMES = [
    "..",
    ".",
    "",
    "a/b",
    "../../etc",
    "/etc",
    "a\\b",
    "a:b",
    ".hidden",
    "%2E",
    "a\nb",
    "~",
    "µ",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(tracker, folder, tmp_path, name):
    execution = tracker.begin(name, [name], {})
    for run_id in (execution.parent, execution.children[0]):
        tracker.log_text(run_id, "text", name)
        tracker.log_image(run_id, name, np.zeros((2, 2, 3), np.uint8))
        run = folder / run_id
        assert run.resolve() == run
        assert len(run.relative_to(folder).parts) == run_id.count("/") + 1
        written = [path for path in (run / "files").rglob("*") if path.is_file()]
        assert [path.read_text() for path in written] == ["text"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(list(folder.iterdir())) == 1
    assert events(folder, execution.parent)[0]["comparison"] == name


def test_names_that_differ_have_folders_that_differ(tracker, folder):
    for name in NAMES:
        tracker.begin(name, [], {})
    assert len(list(folder.iterdir())) == len(NAMES)


@pytest.mark.parametrize("run_id", ["none", "..", "", "a", "/etc"])
def test_a_run_that_is_not_there_is_named(tracker, run_id):
    tracker.begin("a", [], {})
    with pytest.raises(ValueError, match=r"There is no run '.*' in jsonl:///.*/store\."):
        tracker.log_metrics(run_id, {"x": 1.0})


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("jsonl:a/b", "jsonl:./a/b", f"jsonl:{tmp_path}/a/b", f"jsonl://{tmp_path}/a/b"):
        assert JsonlTracker.absolute_uri(uri) == f"jsonl://{tmp_path}/a/b"
    assert JsonlTracker("jsonl:a/b").dashboard() == f"{tmp_path}/a/b"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("jsonl:", "names no folder, as jsonl:runs/jsonl does"),
        ("jsonl:///", "names no folder"),
        ("jsonl://runs/x", "names a host, not a folder: write jsonl:relative/path"),
    ],
)
def test_uris_without_a_folder_are_refused(uri, message):
    with pytest.raises(ValueError, match=message):
        JsonlTracker(uri)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="names a file, not a folder"):
        JsonlTracker(f"jsonl:{tmp_path}/x")


def test_a_line_that_was_cut_off_is_written_again(tracker, folder):
    """The disk was full, or the process was killed."""
    run_id = tracker.begin("a", ["b"], {}).children[0]
    tracker.log_params(run_id, {"n": 3})
    path = folder / run_id / "events.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-9], encoding="utf-8")
    tracker.log_params(run_id, {"n": 3})
    assert path.read_text(encoding="utf-8") == whole
