from tf_finetune import specs, training_cost

PHASES = (specs.PhaseSpec(name="head", epochs=20), specs.PhaseSpec(name="fine", epochs=10))


def test_a_later_phase_costs_between_one_and_three_times_as_much():
    cost = training_cost.estimate_cost(PHASES, epoch_secs=2.0, num_timed=3)
    assert cost.secs_per_epoch == {"head": (2.0, 2.0), "fine": (2.0, 6.0)}
    assert cost.total_secs == (60.0, 100.0)
    # A process with TensorFlow in it has more than 100 MB and less than this machine.
    assert 100e6 < cost.peak_memory_bytes < 1e12


def test_the_line_that_is_printed():
    cost = training_cost.CostEstimate(
        {"head": (2.0, 2.0), "fine": (2.0, 12.0)}, (60.0, 160.0), 3 * 2**29, 3
    )
    assert training_cost.describe_cost(cost, PHASES, num_examples=1650, num_trainable=2570) == (
        "Cost: 1,650 training examples, 2,570 trainable parameters, 1.5 GiB of memory so far, "
        "epochs: head 20 x 2.0 s, fine 10 x 2.0 to 12 s, in all about 60 to 160 s of training "
        "steps (from 3 timed; building each phase's graph, the report and the export come on "
        "top)."
    )


def test_the_timer_leaves_the_first_step_out(monkeypatch):
    times = iter([100.0, 101.0, 103.0, 104.0])
    monkeypatch.setattr(training_cost.time, "monotonic", lambda: next(times))
    timer = training_cost.StepTimer()
    assert timer.secs_per_step() == 0.0
    for batch in range(4):
        timer.on_train_batch_end(batch)
    assert timer.secs_per_step() == 1.0
    assert timer.num_timed() == 3


def test_the_timer_knows_how_many_steps_ran_at_once(monkeypatch):
    times = iter([100.0, 104.0, 105.5])
    monkeypatch.setattr(training_cost.time, "monotonic", lambda: next(times))
    timer = training_cost.StepTimer()
    for batch in (3, 7, 9):  # the last of 4, of 4, of 2
        timer.on_train_batch_end(batch)
    assert timer.secs_per_step() == 0.875
    assert timer.num_timed() == 6
