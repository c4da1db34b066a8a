"""Small networks of random weights, and tokenizers, that tiny pipelines are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from riebench.standin.flux_pipeline import FLUX_SHAPES, t5_config, vae_config, write_t5_tokenizer
from riebench.standin.pipeline import clip_text_config, write_tokenizer

HEADS: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 2}
CLIP, T5_WIDTH, WIDTH = (32, 2, 2), 24, 32
FLOW = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Make = Callable[[], Any]


@dataclass(frozen=True)
class TinyPipeline:
    """A pipeline of tiny networks with random weights.

    Attributes:
        denoiser: its class in diffusers, and its configuration with the published numbers of blocks.
        depth: the settings of the denoiser that are numbers of blocks.
        networks: other component to the function that makes it.
        tokenizers: component to the function that writes it into a folder, and its class in transformers.
        scheduler: its class in diffusers, and its configuration.
        vae: makes the autoencoder.
        settings: of the pipeline itself.
        guiders: component to the function that makes it.
    """

    denoiser: tuple[str, Mapping[str, Any]]
    depth: tuple[str, ...]
    networks: Mapping[str, Make]
    tokenizers: Mapping[str, tuple[Callable[[Path], None], str]]
    scheduler: tuple[str, Mapping[str, Any]] = ("FlowMatchEulerDiscreteScheduler", FLOW)
    vae: Make = field(default=lambda: autoencoder(16))
    settings: Mapping[str, Any] = field(default_factory=dict)
    guiders: Mapping[str, Make] = field(default_factory=dict)


def autoencoder(channels: int) -> Any:
    """A small ``AutoencoderKL`` of 8 pixels to the side of a cell."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**vae_config(FLUX_SHAPES["tiny"]) | {"latent_channels": channels})


def autoencoder_dc() -> Any:
    """A small ``AutoencoderDC`` of 32 pixels to the side of a cell."""
    from diffusers import AutoencoderDC

    widths, layers = (8, 8, 8, 8, 16, 32), (1,) * 6
    scales = ((), (), (), (), (5,), (5,))
    return AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
    )


def autoencoder_qwen() -> Any:
    """A small ``AutoencoderKLQwenImage``."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def autoencoder_flux2() -> Any:
    """A small ``AutoencoderKLFlux2``."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(block_out_channels=(8, 16, 16, 16), norm_num_groups=8, latent_channels=32)


def t5() -> Any:
    """T5's encoder."""
    from transformers import T5EncoderModel

    return T5EncoderModel(t5_config(FLUX_SHAPES["tiny"]))


def umt5() -> Any:
    """UMT5's encoder."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(**t5_config(FLUX_SHAPES["tiny"]).to_dict()))


def clip() -> Any:
    """CLIP's text encoder with a projection."""
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(clip_text_config(CLIP, "quick_gelu"))


def plain_clip() -> Any:
    """CLIP's text encoder."""
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_text_config(CLIP, "quick_gelu"))


def decoder(name: str, layers: int = 2, **more: Any) -> Make:
    """A small language model of a class of transformers, as ``Gemma2Model``."""

    def make() -> Any:
        import transformers

        network = getattr(transformers, name)
        config = network.config_class(
            vocab_size=SPECIAL_FROM + len(SPECIAL),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pad_token_id=SPECIAL_FROM,
            bos_token_id=SPECIAL_FROM,
            eos_token_id=SPECIAL_FROM,
            **more,
        )
        return network(config)

    return make


def qwen_vl() -> Any:
    """A small Qwen 2.5 VL, of which only the language model is used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": SPECIAL_FROM + len(SPECIAL),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def bert() -> Any:
    """A small BERT."""
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return BertModel(BertConfig(vocab_size=200, **sizes))


def autoencoder_hunyuan() -> Any:
    """A small ``AutoencoderKLHunyuanImage`` of 8 pixels to the side of a cell."""
    from diffusers import AutoencoderKLHunyuanImage

    return AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        spatial_compression_ratio=8,
        sample_size=64,
        scaling_factor=0.75,
    )


def autoencoder_qwen21() -> Any:
    """A small ``AutoencoderKLQwenImage21``, of 16 pixels to the side of a cell and pictures of four channels."""
    from diffusers import AutoencoderKLQwenImage21

    return AutoencoderKLQwenImage21(base_dim=8, decoder_base_dim=8, dim_mult=[1] * 5, num_res_blocks=1)


def autoencoder_wan() -> Any:
    """A small ``AutoencoderKLWan`` of 16 pixels to the side of a cell."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )


def qwen3_vl(name: str, layers: int = 2) -> Make:
    """A small Qwen 3 VL of a class of transformers, of which only the language model is used."""

    def make() -> Any:
        import transformers

        text = {
            "vocab_size": SPECIAL_FROM + len(SPECIAL),
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        }
        vision = {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        }
        network = getattr(transformers, name)
        return network(transformers.Qwen3VLConfig(text_config=text, vision_config=vision))

    return make


def long_clip() -> Any:
    """CLIP's text encoder with a projection, of 248 positions."""
    from transformers import CLIPTextModelWithProjection

    config = clip_text_config(CLIP, "quick_gelu")
    config.max_position_embeddings = 248
    return CLIPTextModelWithProjection(config)


def t5_gemma() -> Any:
    """The encoder of a small T5Gemma."""
    from transformers import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    sizes: dict[str, Any] = {
        "vocab_size": SPECIAL_FROM + len(SPECIAL),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
    }
    of_module = T5GemmaModuleConfig(**sizes).to_dict()
    own = {name: of_module[name] for name in T5GemmaModuleConfig.__annotations__ if name in of_module}
    return T5GemmaEncoder(T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False, **own))


def smol_lm() -> Any:
    """A small SmolLM 3, whose vocabulary has the token of an empty text, number 128000."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return SmolLM3ForCausalLM(SmolLM3Config(vocab_size=128_001, tie_word_embeddings=True, pad_token_id=0, **sizes))


def guider() -> Any:
    """HunyuanImage's guider."""
    from diffusers import AdaptiveProjectedMixGuidance

    return AdaptiveProjectedMixGuidance()


def chat_glm() -> Any:
    """A small ChatGLM 3 of diffusers."""
    import torch
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=SPECIAL_FROM,
        hidden_size=WIDTH,
        ffn_hidden_size=WIDTH,
        kv_channels=16,
        num_attention_heads=2,
        multi_query_attention=True,
        multi_query_group_num=1,
        add_qkv_bias=True,
        original_rope=True,
    )
    network = ChatGLMModel(config)
    for parameter in network.parameters():  # otherwise they are what the memory held
        torch.nn.init.normal_(parameter, std=0.2)
    return network


VISION = tuple(f"<|{part}|>" for part in ("vision_start", "vision_end", "image_pad", "video_pad"))
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<unk>", "<pad>", "<mask>", *VISION)
SPECIAL_FROM = 256


def write_characters(folder: Path, name: str, most: int = 4096) -> None:
    """Write a tokenizer of single bytes, of a class of transformers, with a chat template and a number of tokens."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*letters, *SPECIAL))}
    if name == "GemmaTokenizer":
        vocabulary["▁"] = vocabulary.pop("ġ")
    tokenizer = getattr(transformers, name)(vocab=vocabulary, merges=[], model_max_length=most)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def write_glm_tokenizer(folder: Path) -> None:
    """Write a tokenizer in GLM's layout, of single bytes, which begins each text with a token of its own."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate((*sorted(ByteLevel.alphabet()), *SPECIAL))}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=4096
    )
    whole.save_pretrained(folder)


def write_bert_tokenizer(folder: Path) -> None:
    """Write a tokenizer in BERT's layout, of letters."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}).save_pretrained(folder)


def write_byt5(folder: Path) -> None:
    """Write ByT5's tokenizer, of single bytes."""
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(folder)


def write_processor(folder: Path, name: str) -> None:
    """Write a processor of texts and pictures, of a class of transformers, with a tokenizer of single bytes."""
    import transformers

    write_characters(folder, "Qwen2Tokenizer")
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*VISION], special_tokens=True)
    videos = getattr(transformers, name.replace("Processor", "VideoProcessor"))()
    processor = getattr(transformers, name)(transformers.Qwen2VLImageProcessor(), tokenizer, videos, chat_template=CHAT)
    processor.save_pretrained(folder)


def write_chat_glm_tokenizer(folder: Path) -> None:
    """Write a tokenizer in ChatGLM's layout, of letters; needs sentencepiece."""
    import io

    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    letters = " ".join(chr(code) for code in range(33, 127))
    SentencePieceTrainer.train(
        sentence_iterator=iter([letters]), model_writer=model, vocab_size=97, model_type="char", minloglevel=2
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    ChatGLMTokenizer(str(folder / "tokenizer.model"), model_max_length=256).save_pretrained(folder)


CLIP_WORDS = (lambda folder: write_tokenizer(folder, "<|endoftext|>"), "CLIPTokenizer")
T5_WORDS = (write_t5_tokenizer, "T5TokenizerFast")
GEMMA_WORDS = (lambda folder: write_characters(folder, "GemmaTokenizer"), "GemmaTokenizer")
SHORT_GEMMA_WORDS = (lambda folder: write_characters(folder, "GemmaTokenizer", 256), "GemmaTokenizer")
QWEN_WORDS = (lambda folder: write_characters(folder, "Qwen2Tokenizer"), "Qwen2Tokenizer")
LLAMA_WORDS = (write_glm_tokenizer, "PreTrainedTokenizerFast")
BYTES = (write_byt5, "ByT5Tokenizer")
QWEN2_VL = (lambda folder: write_processor(folder, "Qwen2VLProcessor"), "Qwen2VLProcessor")
QWEN3_VL = (lambda folder: write_processor(folder, "Qwen3VLProcessor"), "Qwen3VLProcessor")
CHAT_GLM_WORDS = (write_chat_glm_tokenizer, "ChatGLMTokenizer")


def t5_of(width: int) -> Any:
    """T5's encoder of another width."""
    from transformers import T5EncoderModel

    config = t5_config(FLUX_SHAPES["tiny"])
    config.d_model = width
    return T5EncoderModel(config)
