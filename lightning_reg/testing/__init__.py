"""Conformance kit for components: what the framework expects of each kind, as checks that run in seconds.

Three ways to run the same checks::

    check_component("head", MyHead)                                # anywhere; raises ConformanceError with all that is wrong

    @parametrize_with_checks("head", {"mine": MyHead})             # pytest, a test per check
    def test_conformance(check): check()

    class TestMyHead(ComponentTests):                              # pytest, with fixtures to override
        kind = "head"
        @pytest.fixture
        def factory(self): return MyHead

``docs/plugins.md`` lists every check. The two for pytest need it installed (extra ``testing``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
