"""Other implementations' weights: the same outputs."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.flash.interchange_gau_alpha import read_gau_alpha, write_gau_alpha
from zoo.flash.interchange_lucidrains import read_flash_pytorch
from zoo.flash.module_lm import FlashLM
from zoo.flash.module_mlm import FlashMLM


def ours(cls, hparams, weights):
    model = cls(**hparams)
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("causal", "laplace", "shift", "norm"),
    [
        *itertools.product([True, False], [True, False], [True, False], ["scalenorm"]),
        (True, False, True, "layernorm"),
    ],
)
@torch.no_grad()
def test_flash_pytorch(causal, laplace, shift, norm, tmp_path):
    flash_pytorch = pytest.importorskip("flash_pytorch")
    torch.manual_seed(0)
    options = {"group_size": 8, "laplace_attn_fn": laplace, "shift_tokens": shift}
    theirs = flash_pytorch.FLASHTransformer(
        dim=48, num_tokens=19, depth=3, query_key_dim=40, causal=causal, norm_type=norm, **options
    ).eval()
    for p in theirs.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    model = ours(
        FlashLM if causal else FlashMLM,
        *read_flash_pytorch(tmp_path, causal=causal, **options),
    )
    for n in (5, 24, 29):
        tokens = torch.randint(0, 19, (2, n))
        expected = theirs(tokens)
        error = (model(tokens) - expected).abs().max() / expected.abs().max()
        assert error < 1e-6
    mask = torch.arange(29).expand(2, -1) < torch.tensor([[29], [17]])
    expected = theirs(tokens, mask=mask)
    got = model.net(tokens, key_mask=mask)
    assert (got - expected)[mask].abs().max() / expected.abs().max() < 1e-6
    if causal:  # and it decodes, which theirs does by the whole prefix again
        features, state = model.prefill(tokens[:, :11])
        steps = [model.step(tokens[:, t], state) for t in range(11, 29)]
        got = torch.cat([features, torch.stack(steps, 1)], 1)
        whole = theirs(tokens)
        assert (got - whole).abs().max() / whole.abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_flash_pytorch_with_distances_that_share_a_bucket(causal, tmp_path):
    flash_pytorch = pytest.importorskip("flash_pytorch")
    torch.manual_seed(0)
    theirs = flash_pytorch.FLASHTransformer(
        dim=32, num_tokens=19, depth=2, query_key_dim=32, causal=causal, group_size=200
    ).eval()
    for p in theirs.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    read = read_flash_pytorch(tmp_path, causal=causal, group_size=200)
    model = ours(FlashLM if causal else FlashMLM, *read).double()
    tokens = torch.randint(0, 19, (1, 250))
    expected = theirs.double()(tokens)
    assert (model(tokens) - expected).abs().max() / expected.abs().max() < 1e-6


def gau_alpha_weights(layout, vocabulary=30, dim=24, depth=2, head=8, seed=0):
    """Random weights with the names of GAU-alpha-pytorch or of bert4torch."""
    g = torch.Generator().manual_seed(seed)

    def make(*shape):
        return torch.randn(*shape, generator=g) / math.sqrt(shape[-1])

    e = 2 * dim
    word = make(vocabulary, dim)
    if layout == "junnyu":
        weights = {
            "gau_alpha.embeddings.word_embeddings.weight": word,
            "gau_alpha.embeddings.token_type_embeddings.weight": make(2, dim),
            "cls.predictions.decoder.weight": word.clone(),
        }
    else:
        weights = {
            "embeddings.word_embeddings.weight": word,
            "embeddings.segment_embeddings.weight": make(2, dim),
            "mlmDecoder.weight": word.clone(),
        }
    for i in range(depth):
        layer = f"gau_alpha.encoder.layer.{i}" if layout == "junnyu" else f"encoderLayer.{i}"
        weights[f"{layer}.gau.i_dense.weight"] = make(2 * e + head, dim)
        weights[f"{layer}.gau.o_dense.weight"] = make(dim, e)
        gamma = 1 + make(2, head)
        if layout == "junnyu":
            weights[f"{layer}.gau.q_scaleoffset.weight"] = gamma[0].clone()
            weights[f"{layer}.gau.k_scaleoffset.weight"] = gamma[1].clone()
        else:
            weights[f"{layer}.gau.offsetscale.gamma"] = gamma
    return weights


def rms(x):
    return x / (x.square().mean() + 1e-12).sqrt()


def reference(weights, tokens, head=8, min_length=1):
    """GAU-alpha for one text, a token at a time, from kexue.fm/archives/9052."""
    w = {k: v.double() for k, v in weights.items()}
    word = w["gau_alpha.embeddings.word_embeddings.weight"]
    kinds = w["gau_alpha.embeddings.token_type_embeddings.weight"]
    x = [rms(word[t] + kinds[0]) for t in tokens]
    n, layer = len(tokens), 0
    while f"gau_alpha.encoder.layer.{layer}.gau.i_dense.weight" in w:
        name = f"gau_alpha.encoder.layer.{layer}.gau"
        e = w[f"{name}.o_dense.weight"].shape[1]
        hidden = [torch.nn.functional.silu(w[f"{name}.i_dense.weight"] @ t) for t in x]
        u, v, z = zip(*(h.split([e, e, head]) for h in hidden), strict=True)

        def turned(y, t):
            pairs = y.reshape(-1, 2)
            angle = t * 10000.0 ** (-torch.arange(0, head, 2).double() / head)
            c, s = angle.cos(), angle.sin()
            a, b = pairs[:, 0] * c - pairs[:, 1] * s, pairs[:, 1] * c + pairs[:, 0] * s
            return torch.stack([a, b], 1).flatten()

        q = [turned(z[t] * w[f"{name}.q_scaleoffset.weight"], t) for t in range(n)]
        k = [turned(z[t] * w[f"{name}.k_scaleoffset.weight"], t) for t in range(n)]
        scale = math.log(max(n, min_length)) / math.log(512) / math.sqrt(head)
        out = []
        for t in range(n):
            a = torch.stack([scale * (q[t] @ k[j]) for j in range(n)]).softmax(0)
            value = sum(a[j] * v[j] for j in range(n))
            out.append(rms(x[t] + w[f"{name}.o_dense.weight"] @ (u[t] * value)))
        x, layer = out, layer + 1
    return torch.stack([word @ t for t in x])


@pytest.mark.parametrize("min_length", [1, 16])
@torch.no_grad()
def test_gau_alpha(tmp_path, min_length):
    weights = gau_alpha_weights("junnyu")
    assert len(weights) == 2 + 4 * 2 + 1  # 99 with 24 layers
    torch.save(weights, tmp_path / "pytorch_model.bin")
    model = ours(FlashMLM, *read_gau_alpha(tmp_path, min_length=min_length, mask_token=3))
    texts = [torch.randint(0, 30, (n,)) for n in (7, 20)]
    tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=9)
    mask = torch.arange(20) < torch.tensor([[7], [20]])
    got = model(tokens, mask)
    for row, text in zip(got, texts, strict=True):
        expected = reference(weights, text, min_length=min_length)
        torch.testing.assert_close(row[: len(text)].double(), expected, rtol=0, atol=5e-6)
    (guesses,) = model.fill_mask(torch.tensor([[5, 3, 6]]), k=2)
    best = reference(weights, [5, 3, 6], min_length=min_length)[1].softmax(0).topk(2)
    assert [number for number, _ in guesses[0]] == best.indices.tolist()
    assert [p for _, p in guesses[0]] == pytest.approx(best.values.tolist(), rel=1e-4)


@torch.no_grad()
def test_gau_alpha_goes_round_and_bert4torch_is_the_same(tmp_path):
    weights = gau_alpha_weights("junnyu")
    del weights["cls.predictions.decoder.weight"]  # tied, and sometimes left out
    torch.save(weights, tmp_path / "a.bin")
    hparams, own = read_gau_alpha(tmp_path / "a.bin", mask_token=3)
    write_gau_alpha(hparams, own, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == gau_alpha_weights("junnyu").keys()
    for name, tensor in gau_alpha_weights("junnyu").items():
        assert torch.equal(written[name], tensor)
    torch.save(gau_alpha_weights("bert4torch"), tmp_path / "b.bin")
    other = read_gau_alpha(tmp_path / "b.bin", mask_token=3)[1]
    assert other.keys() == own.keys()
    assert all(torch.equal(other[name], own[name]) for name in own)


def test_command_line(tmp_path, zoo_cli, mistake):
    torch.save(gau_alpha_weights("junnyu"), tmp_path / "a.bin")
    code, _, err = zoo_cli(
        "import", "a.bin", "ours", "--format", "gau-alpha", "--options.mask_token", 3
    )
    assert code == 0, err
    assert isinstance(zoo.load("ours"), FlashMLM)
    assert zoo_cli("export", "ours", "theirs", "--format", "gau-alpha")[0] == 0
    assert (tmp_path / "theirs" / "config.json").is_file()
    assert "no weights of FLASH-pytorch" in mistake(
        "import", "a.bin", "x", "--format", "flash-pytorch"
    )
    assert "group_size='abc': must be a number" in mistake(
        "import", "a.bin", "x", "--format", "flash-pytorch", "--options.group_size", "abc"
    )


def test_weights_that_do_not_belong_are_named(tmp_path):
    weights = gau_alpha_weights("junnyu")
    torch.save({**weights, "pooler.weight": torch.zeros(2)}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"first is pooler\.weight"):
        read_gau_alpha(tmp_path / "a.bin")
    weights["cls.predictions.decoder.weight"] += 1
    torch.save(weights, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="head of these weights"):
        read_gau_alpha(tmp_path / "a.bin")
    hparams, own = FlashMLM(dim=16, depth=2, vocab_size=9, head_size=8).hparams, {}
    with pytest.raises(ValueError, match="kind=flash"):
        write_gau_alpha(dict(hparams), own, tmp_path)
