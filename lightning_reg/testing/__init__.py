"""Conformance kit for components: checks of the framework's requirements on each kind, which run in
seconds.

Three ways to run the same checks::

    check_component("head", MyHead)                                # anywhere; raises
    ConformanceError with all failures

    @parametrize_with_checks("head", {"mine": MyHead})             # pytest, a test per check
    def test_conformance(check): check()

    class TestMyHead(ComponentTests):                              # pytest, with fixtures to
    override
        kind = "head"
        @pytest.fixture
        def factory(self): return MyHead

``docs/plugins.md`` lists every check. The two for pytest require it (extra ``testing``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
