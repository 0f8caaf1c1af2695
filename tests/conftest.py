"""What holds for every test: offline, one thread, no progress of libraries on the screen."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# A key in the developer's environment must not decide how a test goes.
os.environ.pop("OPENAI_API_KEY", None)

from hypothesis import HealthCheck, settings

# No deadline: machines differ, and a test never depends on the time that something took.
settings.register_profile("stillproof", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("stillproof")
