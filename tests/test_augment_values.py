import pytest

from tf_finetune import option_values, options, spec_flags, specs

KNOWN = (
    "flip, crop, rotate, translate, zoom, color, brightness, contrast, saturation, hue, cutout, "
    "erase, randaugment, mixup, cutmix"
)


def test_steps_take_numbers_behind_them():
    steps = option_values.read_augment("flip,crop:0.3,0.9,rotate:15,randaugment:1,7,cutout,mixup")
    assert [(step.name, step.values) for step in steps] == [
        ("flip", ("horizontal",)),
        ("crop", (0.3, 0.9)),
        ("rotate", (15.0,)),
        ("randaugment", (1.0, 7.0)),
        ("cutout", (0.5,)),
        ("mixup", (0.2,)),
    ]
    assert option_values.read_augment("none") == ()
    assert option_values.read_augment("flip:both")[0].values == ("horizontal", "vertical")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "flop",
            "--augment knows no step 'flop'. Did you mean 'flip'? Expected none, or some of "
            f"{KNOWN}, joined by commas.",
        ),
        (
            "flip:left",
            "--augment: flip expects horizontal, vertical, both. Received 'left', in 'flip:left'.",
        ),
        (
            "rotate:200",
            "--augment: rotate expects rotate:DEGREES with DEGREES from 0 to 180. Received "
            "'rotate:200'.",
        ),
        (
            "crop:0.9,0.3",
            "--augment: crop expects crop:MIN_AREA,MAX_AREA with MIN_AREA from 0.01 to 1, MAX_AREA "
            "from 0.01 to 1, the first not above the second. Received 'crop:0.9,0.3'.",
        ),
        (
            "mixup:0",
            "--augment: mixup expects mixup:ALPHA with ALPHA from 0.05 to 10. Received 'mixup:0'.",
        ),
        ("flip,flip", "--augment names flip twice. Give each step once."),
    ],
)
def test_mistakes_are_named(text, problem):
    with pytest.raises(options.SpecError) as caught:
        specs.AugmentSpec(augment=text)
    assert caught.value.problems == (problem,)


def test_the_flag_comes_back_from_run_flags():
    spec = spec_flags.parse_args(["--augment=flip,crop:0.5,1"]).spec
    assert spec.augment.augment == "flip,crop:0.5,1"
    assert "--augment=flip,crop:0.5,1\n" in spec_flags.write_flags(spec)


@pytest.mark.parametrize(
    ("augment", "number", "problem"),
    [
        (
            "none",
            3,
            "--augment_views=3 is how many views of --augment an image has. Give "
            "--augment=flip,crop or other steps, or leave it out.",
        ),
        (
            "flip,cutmix,mixup",
            3,
            "--augment_views=3 keeps views of single images, and cutmix, mixup of --augment mix "
            "those of a batch. Leave one of them out.",
        ),
        ("flip", 0, "--augment_views must be from 1 to 1000. Received 0."),
    ],
)
def test_views_that_cannot_be_kept_are_refused(augment, number, problem):
    with pytest.raises(options.SpecError) as caught:
        specs.AugmentSpec(augment=augment, augment_views=number)
    assert caught.value.problems == (problem,)
