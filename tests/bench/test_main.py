import pytest

from mell_jax.bench.main import main


def test_help_says_what_it_measures_and_groups_the_flags(capsys):
    assert main(["mell-bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("mell-bench: measures how a server")
    assert "the requests:" in text
    assert "--request_rate:" in text


@pytest.mark.parametrize(
    ("flag", "status", "message"),
    [
        ("--no_such_flag", 2, "no_such_flag"),
        ("--suite=rl", 2, "python -m benchmarks --suite=rl"),
        ("serve", 2, "takes flags only"),
        ("--num_requests=0", 1, "num_requests must be at least 1"),
        ("--length_scale=some", 1, "length_scale must be a number or auto"),
        ("--length_scale=0", 1, "length_scale must be positive"),
        ("--request_rate=nan", 1, "request_rate must be positive"),
        ("--max_rows=0", 1, "max_rows must be at least 1"),
        ("--model=random:huge", 1, "there is no shape 'huge'"),
        ("--model=/no/such/model", 1, "/no/such/model"),
    ],
)
def test_a_wrong_flag_is_told_without_a_traceback(capsys, flag, status, message):
    assert main(["mell-bench", "--noprogress", *flag.split()]) == status
    assert message in capsys.readouterr().err
