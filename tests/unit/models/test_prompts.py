"""Prompt encoding: equal to diffusers' within one window, and nothing is cut beyond it."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

PROMPT = "film photo of a woman in the rain"


@pytest.fixture(scope="module")
def pipeline(miniature_folder):
    return StableDiffusionXLPipeline.from_pretrained(miniature_folder / "base", local_files_only=True)


def longer_than(tokenizer, tokens):
    words = ["portrait"]
    while len(tokenizer(" ".join(words), verbose=False).input_ids) <= tokens + 2:
        words.append("garden")
    return " ".join(words)


def test_a_short_prompt_is_encoded_as_diffusers_does(miniature_model, pipeline):
    with torch.inference_mode():
        tokens, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)

    (ours,) = miniature_model.encode_prompts([PROMPT])

    assert torch.allclose(ours.tokens, tokens[0], atol=1e-6)
    assert torch.allclose(ours.pooled, pooled[0], atol=1e-6)


def test_an_empty_prompt_is_all_zeros_as_sdxl_wants(miniature_model):
    (empty,) = miniature_model.encode_prompts([""])

    assert not empty.tokens.any()
    assert not empty.pooled.any()


def test_a_prompt_of_exactly_75_tokens_fits_one_window_and_76_take_two(miniature_model, pipeline):
    fits = " ".join(["a"] * 75)
    over = fits + " a"
    assert len(pipeline.tokenizer(fits, verbose=False).input_ids) == 77

    (one,), (two,) = miniature_model.encode_prompts([fits]), miniature_model.encode_prompts([over])

    assert (len(one.tokens), len(two.tokens)) == (77, 154)


def test_the_end_of_a_long_prompt_counts(miniature_model, pipeline):
    long = longer_than(pipeline.tokenizer, 100)

    (plain,) = miniature_model.encode_prompts([long])
    (changed,) = miniature_model.encode_prompts([long + " smiling"])

    assert plain.tokens.shape == changed.tokens.shape
    assert (plain.tokens - changed.tokens).abs().max() > 1e-3


def test_the_first_window_of_a_long_prompt_is_the_short_prompts_own(miniature_model, pipeline):
    words = longer_than(pipeline.tokenizer, 75).split()

    (long,) = miniature_model.encode_prompts([" ".join(words)])
    (first,) = miniature_model.encode_prompts([" ".join(words[:-1])])

    assert len(long.tokens) == 2 * len(first.tokens)


def test_the_prompts_of_one_request_get_the_same_length(miniature_model, pipeline):
    negative, positive = miniature_model.encode_prompts(["blurry", longer_than(pipeline.tokenizer, 160)])

    assert negative.tokens.shape == positive.tokens.shape == (3 * 77, positive.tokens.shape[1])
