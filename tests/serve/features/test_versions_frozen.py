"""A registered feature version never changes: golden vectors worked out by hand, the sha256 of its module, its imports."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest

from ml_core.features.columns import table_hash
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import get_feature_version, known_versions
from tests.own_versions import STANDARD

# A changed module is a new version: write vN+1.py and add its line here, never change a line.
FROZEN = {
    "v1": (
        "acc5d49a3c0aa5643ce6731310c4d90abc46d660991cc1a65543e7dbcd1befef",
        "c9c573c63b042f97b659189824400d3c07462645354ca9005306b55238bce692",
    ),
    "v2": (
        "8b3f6884faac02f9832b7089a60679a6edaa6af75330c10161f4c8da06919cc5",
        "5b980dda0b23816ffecce3537682548b751fa6e640a3423675a11b7960a22c1a",
    ),
}

FROZEN_STANDARD = "efa289e4162c900802ddcecd7d31345423f123ab53cb28bdc16f87742a23188b"

VERSIONS = Path(__file__).parents[3] / "ml_core" / "serve" / "features"

NAN = float("nan")
NO_DRUG = dict.fromkeys(
    ("metformin", "glimepiride", "glipizide", "glyburide", "pioglitazone", "rosiglitazone", "insulin"), "No"
)

HEART_FAILURE = NO_DRUG | {
    "age": "[70-80)", "gender": "Female", "admission_type_id": 1, "discharge_disposition_id": 3, "admission_source_id": 7,
    "time_in_hospital": 4, "medical_specialty": "Cardiology", "num_lab_procedures": 50, "num_procedures": 2,
    "num_medications": 18, "number_outpatient": 1, "number_emergency": 2, "number_inpatient": 3, "diag_1": "428",
    "diag_2": "250.43", "diag_3": "V45", "number_diagnoses": 9, "A1Cresult": ">8", "metformin": "Steady", "insulin": "Up",
    "glipizide": "Down", "change": "Ch", "diabetesMed": "Yes",
}  # fmt: skip
LITTLE_KNOWN = NO_DRUG | {
    "age": "[0-10)", "gender": None, "admission_type_id": 6, "discharge_disposition_id": 18, "admission_source_id": 4,
    "time_in_hospital": 1, "num_lab_procedures": 1, "num_procedures": 0, "num_medications": 3, "number_outpatient": 0,
    "number_emergency": 0, "number_inpatient": 0, "diag_1": "786", "diag_2": "8", "number_diagnoses": 2,
    "max_glu_serum": ">200", "A1Cresult": "Norm", "change": "No", "diabetesMed": "No",
}  # fmt: skip
DIABETES = NO_DRUG | {
    "age": "[90-100)", "gender": "Male", "admission_type_id": 3, "discharge_disposition_id": 6, "admission_source_id": 1,
    "time_in_hospital": 14, "medical_specialty": "Surgery-Neuro", "num_lab_procedures": 35, "num_procedures": 6,
    "num_medications": 21, "number_outpatient": 0, "number_emergency": 1, "number_inpatient": 0, "diag_1": "250",
    "diag_2": "250.1", "diag_3": "E878", "number_diagnoses": 16, "max_glu_serum": "Norm", "change": "No", "diabetesMed": "Yes",
}  # fmt: skip

# Columns of the matrix that are not 0.
V2_GOLDEN = [
    (HEART_FAILURE, {
        "time_in_hospital": 4, "num_lab_procedures": 50, "num_procedures": 2, "num_medications": 18, "number_outpatient": 1,
        "number_emergency": 2, "number_inpatient": 3, "number_diagnoses": 9, "visits_year_before": 6,
        "acute_visits_year_before": 5, "labs_per_day": 12.5, "medications_per_day": 4.5, "age_years": 75, "female": 1,
        "admission_emergency": 1, "discharge_nursing": 1, "source_emergency": 1, "specialty_cardiology": 1, "a1c_taken": 1,
        "a1c_level": 3, "medication_changed": 1, "diabetes_medication": 1, "metformin": 2, "insulin": 3, "glipizide": 1,
        "drugs_given": 3, "drugs_raised": 1, "drugs_lowered": 1, "primary_circulatory": 1, "n_circulatory": 1,
        "n_heart_failure": 1, "n_diabetes": 1, "n_diabetes_chronic": 1, "n_diabetes_type1": 1, "n_diabetes_uncontrolled": 1,
        "n_supplementary": 1,
    }),
    (LITTLE_KNOWN, {
        "time_in_hospital": 1, "num_lab_procedures": 1, "num_medications": 3, "number_diagnoses": 2, "labs_per_day": 1,
        "medications_per_day": 3, "age_years": 5, "female": NAN, "admission_unknown": 1, "discharge_unknown": 1,
        "source_transfer": 1, "specialty_unknown": 1, "glucose_taken": 1, "glucose_level": 2, "a1c_taken": 1, "a1c_level": 1,
        "primary_respiratory": 1, "n_respiratory": 1, "n_infection": 1, "n_none": 1,
    }),
    (DIABETES, {
        "time_in_hospital": 14, "num_lab_procedures": 35, "num_procedures": 6, "num_medications": 21, "number_emergency": 1,
        "number_diagnoses": 16, "visits_year_before": 1, "acute_visits_year_before": 1, "labs_per_day": 2.5,
        "medications_per_day": 1.5, "age_years": 95, "admission_elective": 1, "discharge_home_care": 1, "source_referral": 1,
        "specialty_surgery": 1, "glucose_taken": 1, "glucose_level": 1, "diabetes_medication": 1, "primary_diabetes": 1,
        "n_diabetes": 2, "n_diabetes_plain": 1, "n_diabetes_acute": 1, "n_external": 1,
    }),
]  # fmt: skip
V1_GOLDEN = [
    ({"age": 70, "glucose": 200, "bmi": 30, "bp_systolic": 95}, [70, 200, 30, 95, 0, 0, 0, 20, 5, 5, 0]),
    ({"age": 40, "bmi": 17.5, "bp_systolic": 150}, [40, NAN, 17.5, 150, 1, 0, 0, NAN, 1, 0, 10]),
    ({"age": 0, "glucose": 180.0, "bmi": None}, [0, 180, NAN, NAN, 0, 1, 1, 0, NAN, NAN, NAN]),
]


def matrix(name, rows):
    version = get_feature_version(name)
    reader = RecordReader(version.columns)
    return version.transform(reader.arrays([reader.read(row) for row in rows]))


def test_v1_gives_its_golden_vectors():
    x = matrix("v1", [row for row, _ in V1_GOLDEN])
    np.testing.assert_array_equal(x, np.array([vector for _, vector in V1_GOLDEN], dtype=np.float32))


@pytest.mark.parametrize("row", range(len(V2_GOLDEN)))
def test_v2_gives_its_golden_vectors(row):
    record, expected = V2_GOLDEN[row]
    names = get_feature_version("v2").feature_names
    assert set(expected) <= set(names)
    x = matrix("v2", [record])[0]
    np.testing.assert_array_equal(x, np.array([expected.get(name, 0) for name in names], dtype=np.float32))


@pytest.mark.parametrize(
    ("code", "chapter", "also"),
    [
        ("1", "infection", ()), ("38", "infection", ("n_sepsis",)), ("139", "infection", ()), ("140", "neoplasm", ()),
        ("239.9", "neoplasm", ()), ("240", "endocrine", ()), ("249", "endocrine", ()), ("251", "endocrine", ()),
        ("276", "endocrine", ("n_electrolytes",)), ("279", "endocrine", ()), ("289", "blood", ()), ("290", "mental", ()),
        ("389", "nervous", ()), ("390", "circulatory", ()), ("410", "circulatory", ("n_ischaemic_heart",)),
        ("427.31", "circulatory", ("n_arrhythmia",)), ("438", "circulatory", ("n_stroke",)), ("785", "circulatory", ()),
        ("486", "respiratory", ("n_pneumonia",)), ("491", "respiratory", ("n_copd",)), ("786", "respiratory", ()),
        ("579", "digestive", ()), ("787", "digestive", ()), ("585", "genitourinary", ("n_kidney_failure",)),
        ("788", "genitourinary", ()), ("630", "pregnancy", ()), ("707", "skin", ("n_skin_ulcer",)),
        ("739", "musculoskeletal", ()), ("759", "congenital", ()), ("760", "perinatal", ()), ("780", "symptoms", ()),
        ("784", "symptoms", ()), ("789", "symptoms", ()), ("800", "injury", ()), ("999", "injury", ()),
        ("E878", "external", ()), ("V45.1", "supplementary", ()), (None, "none", ()),
        ("250", "diabetes", ("n_diabetes_plain",)), ("250.00", "diabetes", ("n_diabetes_plain",)),
        ("250.02", "diabetes", ("n_diabetes_plain", "n_diabetes_uncontrolled")),
        ("250.11", "diabetes", ("n_diabetes_acute", "n_diabetes_type1")), ("250.3", "diabetes", ("n_diabetes_acute",)),
        ("250.4", "diabetes", ("n_diabetes_chronic",)), ("250.83", "diabetes", ("n_diabetes_chronic", "n_diabetes_type1",
                                                                               "n_diabetes_uncontrolled")),
    ],
)  # fmt: skip
def test_v2_files_every_diagnosis_under_its_icd9_chapter(code, chapter, also):
    names = get_feature_version("v2").feature_names
    x = dict(
        zip(names, matrix("v2", [DIABETES | {"diag_1": code, "diag_2": "E800", "diag_3": "E800"}])[0], strict=True)
    )
    assert {n for n in names if n.startswith("primary_") and x[n]} == {f"primary_{chapter}"}
    counted = {f"n_{chapter}", "n_external", *also}
    assert {n for n in names if n.startswith("n_") and x[n]} == counted


def test_v2_knows_every_kind_of_admission_discharge_source_and_specialty():
    version = get_feature_version("v2")
    for column, prefix in (
        ("admission_type_id", "admission_"),
        ("discharge_disposition_id", "discharge_"),
        ("admission_source_id", "source_"),
        ("medical_specialty", "specialty_"),
    ):
        levels = next(c.levels for c in version.columns if c.name == column)
        x = matrix("v2", [DIABETES | {column: level} for level in levels])
        block = x[:, [i for i, name in enumerate(version.feature_names) if name.startswith(prefix)]]
        assert (block.sum(axis=1) == 1).all(), column


@pytest.mark.parametrize("name", known_versions())
def test_a_registered_version_is_the_one_that_was_frozen(name):
    version = get_feature_version(name)
    module_hash, columns_hash = FROZEN[name]
    assert version.module_hash == hashlib.sha256((VERSIONS / f"{name}.py").read_bytes()).hexdigest() == module_hash
    assert table_hash(version.columns) == columns_hash


def test_the_standard_transform_is_the_one_that_was_frozen():
    """The hash is in every model of a column table. Another transform is another file beside it."""
    found = hashlib.sha256((VERSIONS / "standard.py").read_bytes()).hexdigest()
    assert found == get_feature_version(STANDARD).module_hash == FROZEN_STANDARD


def imports_of(source):
    """Every module that this source imports, relative imports with their dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("name", [*known_versions(), "standard"])
def test_a_version_imports_one_address_of_ml_core(name):
    """This address is in the hash of every model, so it can never move; a second one would be one more."""
    found = imports_of((VERSIONS / f"{name}.py").read_text())
    assert {module for module in found if module.startswith(("ml_core", "."))} == {"ml_core.features.columns"}


def test_every_form_of_import_is_seen():
    source = "import ml_core.a\ndef f():\n    from ml_core.b import c\n    from . import d\n    from ..e import f\n"
    assert list(imports_of(source)) == ["ml_core.a", "ml_core.b", ".", "..e"]
