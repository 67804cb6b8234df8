"""What an untrusted file could do, read in a limited child process before anything opens it.

from tf_finetune import trust

for finding in trust.examine("model.keras"):
    print(finding.severity, finding.message)
"""

from tf_finetune.trust.examination import UntrustedModelError, check, examine, refuse

__all__ = ["UntrustedModelError", "check", "examine", "refuse"]
