"""Products by oneDNN: those of PyTorch, with their gradients and second derivatives."""

from __future__ import annotations

import builtins
import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.testing import assert_close

from textenv.lm import products
from textenv.lm.products import OneDNNLinear, Product, with_fast_products

pytestmark = pytest.mark.skipif(not products._has_onednn(), reason="this PyTorch has none")


@pytest.fixture(autouse=True)
def asks_again():
    products.way.cache_clear()
    yield
    products.way.cache_clear()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 2, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(shape, with_bias):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator).requires_grad_()

    x, weight, bias = draw(*shape, 7), draw(6, 7), draw(6) if with_bias else None

    def found(product, dtype):
        """Products, and first and second derivatives of a function of them."""
        inputs = [None if each is None else each.to(dtype) for each in (x, weight, bias)]
        given = [each for each in inputs if each is not None]
        y = product(*inputs)
        first = torch.autograd.grad(y.tanh().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum((g**3).sum() for g in first), given)
        return [y, *first], second

    exact, rounded = found(linear, torch.float64), found(Product.apply, torch.float32)
    for one, other in zip(rounded[0], exact[0], strict=True):
        assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    for one, other in zip(rounded[1], exact[1], strict=True):  # sums in which large terms cancel
        assert_close(one.double(), other, rtol=0, atol=1e-5 * other.abs().max().item())


def test_what_needs_no_gradient_gets_none():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4)
    Product.apply(x, weight, None).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_a_model_makes_its_products_so(make_model, monkeypatch):
    monkeypatch.setenv(products.CHOICE, "onednn")
    plain = make_model()
    fast = with_fast_products(copy.deepcopy(plain))
    linears = [each for each in fast.modules() if isinstance(each, nn.Linear)]
    assert linears and all(type(each) is OneDNNLinear for each in linears)
    assert all(type(each) is OneDNNLinear for each in copy.deepcopy(linears))
    ids = torch.arange(6)[None]
    found = []
    for model in (plain, fast):
        logits = model(ids).logits
        logits.logsumexp(-1).sum().backward()
        found.append([logits, *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(ids).logits.dtype == torch.bfloat16
    assert_close(
        linears[0](torch.zeros(0, linears[0].in_features)), torch.zeros(0, linears[0].out_features)
    )


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [("AuthenticAMD", "AVX512", "onednn"), ("AuthenticAMD", "AVX2", "torch"),
     ("GenuineIntel", "AVX512", "torch"), ("", "DEFAULT", "torch")],
)  # fmt: skip
def test_the_processor_decides(vendor, capability, expected, monkeypatch):
    monkeypatch.delenv(products.CHOICE, raising=False)
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert products.way() == expected


def test_a_wish_takes_precedence(monkeypatch):
    monkeypatch.setenv(products.CHOICE, "onednn")
    assert products.way() == "onednn"
    products.way.cache_clear()
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    assert products.way() == "torch"
    products.way.cache_clear()
    monkeypatch.setenv(products.CHOICE, "mkl")
    with pytest.raises(ValueError, match="TEXTENV_PRODUCTS='mkl' is unknown: use one of torch"):
        products.way()


def test_the_vendor_is_read(monkeypatch):
    text = "processor : 0\nvendor_id\t: AuthenticAMD\nflags : avx512f\n"
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(text))
    assert products._vendor() == "AuthenticAMD"
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO("CPU implementer : 0x41\n"))
    assert products._vendor() == ""
