import json

import pytest

from tf_finetune import options, tf_config

EXAMPLE = (
    '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
)
TWO = {"worker": ["a:1", "b:2"]}


def write(cluster, job="worker", index=0, **more):
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}, **more})


def test_workers_are_numbered_and_the_first_is_the_chief():
    place = tf_config.read_place(write(TWO))
    assert (place.addresses, place.index, place.is_chief) == (("a:1", "b:2"), 0, True)
    place = tf_config.read_place(write(TWO, index=1))
    assert (place.index, place.is_chief) == (1, False)


def test_a_chief_comes_before_the_workers():
    cluster = {"worker": ["a:1", "[::1]:2"], "chief": ["c:3"]}
    assert tf_config.read_place(write(cluster, "chief")).is_chief
    place = tf_config.read_place(write(cluster, index="1", environment="cloud"))
    assert (place.addresses, place.index) == (("c:3", "a:1", "[::1]:2"), 2)


@pytest.mark.parametrize("text", [None, "", "  "])
def test_not_set(text):
    with pytest.raises(options.SpecError) as error:
        tf_config.read_place(text)
    assert str(error.value) == (
        "--strategy=multi_worker reads the addresses of all workers from the environment variable "
        f"TF_CONFIG, which is not set. Expected {EXAMPLE} with each worker's own index, or "
        "--strategy=auto."
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
              "(char 1))"),
        ("[]", "is no JSON object"),
        ("{}", 'has no "cluster"'),
        ('{"cluster": {"worker": ["a:1"]}}', 'has no "task"'),
        (write({"worker": []}), 'has no list of addresses as "worker"'),
        (write({"worker": "a:1"}), 'has no list of addresses as "worker"'),
        (write({"worker": ["a:1", "b"]}), "has 'b' as an address of \"worker\", and no HOST:PORT"),
        (write({"worker": ["a:1", "a:1"]}), "has the address 'a:1' twice"),
        (write({"chief": ["a:1", "b:1"]}, "chief"), 'has several addresses as "chief"'),
        (write({**TWO, "ps": ["c:1"]}), "has 'ps' in \"cluster\", and only workers (one of them "
                                        "may be called chief) train together here"),
        (write(TWO, "evaluator"), "has the task type 'evaluator', not \"worker\" as \"cluster\""),
        (write(TWO, "chief"), "has the task type 'chief', not \"worker\" as \"cluster\""),
        (write(TWO, index=2), 'has the task index 2, not one from 0 to 1 as "cluster" has of '
                              '"worker"'),
        (write(TWO, index=None), 'has the task index None, not one from 0 to 1 as "cluster" has of '
                                 '"worker"'),
    ],
)  # fmt: skip
def test_what_it_must_say(text, what):
    with pytest.raises(options.SpecError) as error:
        tf_config.read_place(text)
    assert str(error.value) == (
        f"--strategy=multi_worker: the environment variable TF_CONFIG {what}. Expected {EXAMPLE}."
    )
