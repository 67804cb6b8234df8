from tf_finetune.data import memory


def test_available_memory_is_a_sensible_number_of_bytes():
    assert 2**24 < memory.find_available_bytes() < 2**50
