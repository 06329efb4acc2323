"""Run by NannyML's own environment: the AUC it expects of each chunk of a stream, from two columns and a reference.

Reads JSON from standard input (``reference``: P(1) and labels; ``stream``: P(1); ``chunk``: rows) and writes a list.
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")


def main() -> None:
    """Expected AUC of each chunk."""
    import nannyml
    import pandas as pd

    asked = json.load(sys.stdin)
    reference = pd.DataFrame({"p": asked["reference"], "y": asked["labels"]})
    stream = pd.DataFrame({"p": asked["stream"]})
    for frame in (reference, stream):
        frame["said"] = (frame["p"] > 0.5).astype(int)
    found = nannyml.CBPE(
        y_pred_proba="p",
        y_pred="said",
        y_true="y",
        problem_type="classification_binary",
        metrics=["roc_auc"],
        chunk_size=asked["chunk"],
    )
    result = found.fit(reference).estimate(stream).filter(period="analysis").to_df()
    json.dump(result["roc_auc", "value"].tolist(), sys.stdout)


if __name__ == "__main__":
    main()
