from .checks import Check as Check
from .checks import ConformanceError as ConformanceError
from .checks import check_component as check_component
from .checks import checks as checks
from .suites import ComponentTests as ComponentTests
from .suites import parametrize_with_checks as parametrize_with_checks
