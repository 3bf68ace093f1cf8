"""The package's logger.

Where OpenMMLab is installed, importing the package sends its records to mmengine's current logger.
"""

import logging

logger = logging.getLogger("mmlearnconv")
