"""Prompt encoding: equal to diffusers' within one window, and nothing is cut beyond it."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from instantid_serve.models.checkpoint import load_components
from instantid_serve.models.prompts import PromptEncoder

PROMPT = "film photo of a woman in the rain"


@pytest.fixture(scope="module")
def pipeline(miniature_folder):
    return StableDiffusionXLPipeline.from_pretrained(miniature_folder / "base", local_files_only=True)


@pytest.fixture(scope="module")
def encode(miniature_folder):
    """Encodes prompts to the same number of windows, as those of one request."""
    parts = load_components(miniature_folder, device="cpu", dtype=torch.float32)
    encoder = PromptEncoder(parts.tokenizers, parts.text_encoders, zero_empty=parts.zero_empty_prompts)

    def encode(*prompts):
        windows = max(encoder.windows(prompt) for prompt in prompts)
        return [encoder.encode(prompt, windows) for prompt in prompts]

    return encode


def longer_than(tokenizer, tokens):
    words = ["portrait"]
    while len(tokenizer(" ".join(words), verbose=False).input_ids) <= tokens + 2:
        words.append("garden")
    return " ".join(words)


def test_a_short_prompt_is_encoded_as_diffusers_does(encode, pipeline):
    with torch.inference_mode():
        tokens, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)

    (ours,) = encode(PROMPT)

    assert torch.allclose(ours.tokens, tokens[0], atol=1e-6)
    assert torch.allclose(ours.pooled, pooled[0], atol=1e-6)


def test_an_empty_prompt_is_all_zeros_as_sdxl_wants(encode):
    (empty,) = encode("")

    assert not empty.tokens.any()
    assert not empty.pooled.any()


def test_a_prompt_of_exactly_75_tokens_fits_one_window_and_76_take_two(encode, pipeline):
    fits = " ".join(["a"] * 75)
    over = fits + " a"
    assert len(pipeline.tokenizer(fits, verbose=False).input_ids) == 77

    (one,), (two,) = encode(fits), encode(over)

    assert (len(one.tokens), len(two.tokens)) == (77, 154)


def test_the_end_of_a_long_prompt_counts(encode, pipeline):
    long = longer_than(pipeline.tokenizer, 100)

    (plain,) = encode(long)
    (changed,) = encode(long + " smiling")

    assert plain.tokens.shape == changed.tokens.shape
    assert (plain.tokens - changed.tokens).abs().max() > 1e-3


def test_the_first_window_of_a_long_prompt_is_the_short_prompts_own(encode, pipeline):
    words = longer_than(pipeline.tokenizer, 75).split()

    (long,) = encode(" ".join(words))
    (first,) = encode(" ".join(words[:-1]))

    assert len(long.tokens) == 2 * len(first.tokens)


def test_the_prompts_of_one_request_get_the_same_length(encode, pipeline):
    negative, positive = encode("blurry", longer_than(pipeline.tokenizer, 160))

    assert negative.tokens.shape == positive.tokens.shape == (3 * 77, positive.tokens.shape[1])
