"""`pyk install`: the files that it writes, what a second run says, and what systemd says of its units."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyk.cli.main import main

TOKEN = f"K10{'ab' * 32}::abcdef.0123456789abcdef"
AGENT = ["--server", "https://10.0.0.1:6443", "--token", TOKEN]


def install(root: Path, *words: str) -> int:
    return main(["install", *words, "--root", str(root), "--program", "/bin/true"])


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert install(tmp_path, "server", "--tls-san", "a.example") == 0
    assert install(tmp_path, "agent", *AGENT) == 0
    units = sorted(str(path) for path in (tmp_path / "etc/systemd/system").glob("*.service"))
    checked = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    broken = tmp_path / "broken.service"
    broken.write_text(Path(units[0]).read_text().replace("ExecStart=", "ExecSart="))
    assert subprocess.run(["systemd-analyze", "verify", broken], capture_output=True, check=False).stderr


def test_a_second_install_changes_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, "agent", *AGENT)
    before = files_of(tmp_path)
    capsys.readouterr()
    assert install(tmp_path, "agent") == 0
    assert files_of(tmp_path) == before
    told = capsys.readouterr().out
    assert told.count("is right already") == 2
    assert "written" not in told


def test_what_is_given_again_changes_and_the_rest_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, "agent", *AGENT, "--max-pods", "20")
    capsys.readouterr()
    install(tmp_path, "agent", "--max-pods", "30")
    told = capsys.readouterr().out
    assert "agent.yaml changed" in told
    text = (tmp_path / "etc/pyk/agent.yaml").read_text()
    assert "max-pods: 30" in text
    assert TOKEN in text


def test_the_options_with_a_token_are_for_root_alone(tmp_path: Path) -> None:
    install(tmp_path, "agent", *AGENT)
    assert (tmp_path / "etc/pyk/agent.yaml").stat().st_mode & 0o777 == 0o600


def test_a_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path, "server", "--dry-run") == 0
    assert "ExecStart=/bin/true server --config /etc/pyk/server.yaml" in capsys.readouterr().out
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["agent"], "--server URL"),
        (["agent", "--server", "https://10.0.0.1"], "--token"),
        (["agent", "--server", "https://10.0.0.1", "--token", "nonsense"], "the token is cut or changed"),
        (["server", "--store", "mysql"], "sqlite or etcd"),
    ],
)
def test_what_cannot_work_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert install(tmp_path, *words) == 1
    told = capsys.readouterr().err
    assert why in told
    assert told.count("\n") == 1
    assert files_of(tmp_path) == {}


def test_uninstall_takes_all_of_it_away(tmp_path: Path) -> None:
    install(tmp_path, "server")
    install(tmp_path, "agent", *AGENT)
    (tmp_path / "var/lib/pyk/agent").mkdir(parents=True)
    (tmp_path / "var/lib/pyk/agent/kept").write_text("")
    assert main(["uninstall", "agent", "--root", str(tmp_path)]) == 0
    assert "etc/pyk/server.yaml" in files_of(tmp_path)
    assert main(["uninstall", "server", "--root", str(tmp_path)]) == 0
    assert files_of(tmp_path) == {}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck: apt-get install shellcheck")
def test_the_provisioning_script_is_clean_shell() -> None:
    script = Path(__file__).parents[3] / "vagrant" / "provision.sh"
    checked = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
