from ltlib.bench import PLAIN, loss_times, report_losses
from ltlib.losses import LOSSES


def test_every_loss_is_timed_beside_plain_cross_entropy():
    times = loss_times(shapes=((8, 10), (4, 30)), seconds=0.1)
    assert times.index.tolist() == [PLAIN, *LOSSES]
    assert times.columns.tolist() == [("(8, 10)", "ms"), ("(8, 10)", "ratio"), ("(4, 30)", "ms"), ("(4, 30)", "ratio")]
    assert (times > 0).all().all()
    assert (times.loc[PLAIN, [("(8, 10)", "ratio"), ("(4, 30)", "ratio")]] == 1).all()


def test_the_report_names_the_device_and_the_losses(monkeypatch, capsys):
    monkeypatch.setenv("DEVICE", "cpu")
    report_losses(seconds=0.2)
    said = capsys.readouterr().out
    assert "cpu" in said
    assert all(name in said for name in LOSSES)
