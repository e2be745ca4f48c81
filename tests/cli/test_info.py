from ecood import cli


def test_a_readme_of_somebody_cannot_drive_the_terminal(on_disk, capsys):
    card = on_disk / "README.md"
    card.write_text("# Mine\n\n\x1b]0;title\x07\x1b[2J\na\tb\n\u202eoht\n")
    try:
        assert cli.main(["info", str(on_disk)]) == 0
    finally:
        card.unlink()
    out = capsys.readouterr().out
    end = "README.md:\n\n# Mine\n\n\\x1b]0;title\\x07\\x1b[2J\na       b\n\\u202eoht\n"
    assert out.endswith(end) and not {"\x1b", "\x07", "\u202e", "\t"} & {*out}
