"""For authors of provider plugins: fake vendors that fail at will, and the checks that every built-in provider passes.

    from webapp.testkit.contract import TextProviderContract
    from webapp.testkit.fakes.openai import FakeOpenAI

    class TestMyProvider(TextProviderContract):
        @pytest.fixture
        def fake(self):
            with FakeOpenAI() as fake:
                yield fake

        @pytest.fixture
        def provider(self, fake):
            [provider] = my_plugin.register_providers({"MY_KEY": "k", "MY_BASE_URL": fake.url})
            return provider

`ImageProviderContract` does the same for providers of pictures, and `LocalProviderContract` for those that call nobody. The
checks need pytest; the fakes need nothing but Python. Nothing in the product imports this package.

In an installed Switchhook the fakes are in `webapp/testkit/fakes`. In a checkout they are in `tests/fakes`, and the name
`webapp.testkit.fakes` leads to the same modules, not to copies of them: `isinstance` holds whichever name is used.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_NAME = f"{__name__}.fakes"
_IN_A_CHECKOUT = "tests.fakes"


class _SameModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `webapp.testkit.fakes` and what is below it as the modules of `tests.fakes`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for the fakes' names, None for all others."""
        if fullname != _NAME and not fullname.startswith(f"{_NAME}."):
            return None
        real = _IN_A_CHECKOUT + fullname.removeprefix(_NAME)
        if importlib.util.find_spec(real) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the real module in the place of the new, empty one."""
        sys.modules[module.__name__] = importlib.import_module(_IN_A_CHECKOUT + module.__name__.removeprefix(_NAME))


if not (Path(__file__).parent / "fakes").is_dir():
    sys.meta_path.insert(0, _SameModule())

if "pytest" in sys.modules:  # a failed check then shows its values, as a test's own assertion does
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{name}" for name in ("asking", "promises", "broken", "pictures", "tools"))
    )
