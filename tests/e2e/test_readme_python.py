"""The Python of README.md is run as it stands there."""

import re


def test_python_blocks_run(repository, tmp_path, monkeypatch, capsys):
    readme = (repository / "README.md").read_text()
    blocks = re.findall(r"```python\n(.+?)```", readme, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(repository / "configs")
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        assert float(capsys.readouterr().out.splitlines()[-1]) > 0.8
