import numpy as np

from tf_finetune.data import growing_array


def test_grows_past_its_first_room_and_starts_again():
    array = growing_array.GrowingArray(np.int32)
    for start in range(0, 100_000, 333):
        array.extend(np.arange(start, min(start + 333, 100_000)))
    assert len(array) == 100_000
    values = array.finish()
    assert values.dtype == np.int32
    np.testing.assert_array_equal(values, np.arange(100_000))
    assert len(array) == 0 and array.finish().shape == (0,)
    array.extend(np.array([7]))
    assert array.finish().tolist() == [7]
    assert values[-1] == 99_999
