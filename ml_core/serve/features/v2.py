"""Feature version v2: one hospital encounter of a person with diabetes, at discharge (Diabetes 130-US hospitals).

The raw columns carry the names and codes of the published table (Strack et al., "Impact of HbA1c Measurement on
Hospital Readmission Rates", BioMed Research International 2014, article 781670). Left out on purpose: ``race`` (the
model must not decide by it), ``payer_code`` (how a stay is paid is no property of the patient, and is unknown for
40 %), ``weight`` (missing for 97 %), and the sixteen drugs that fewer than two in a hundred received.

This module is frozen: its sha256 is part of every artefact, so a change to it must be a new version. It therefore
imports nothing but numpy and the column table. Only sums, quotients and look-ups are used, never a transcendental
function, because those may differ in the last bit with a value's place in the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.features.columns import Column, ColumnArrays

__all__ = ["COLUMNS", "FEATURE_DOCS", "FEATURE_NAMES", "transform"]

# --- raw columns --------------------------------------------------------------------------------------------------

_AGE = tuple(f"[{decade}-{decade + 10})" for decade in range(0, 100, 10))
_ID = 2**53 - 1  # the largest whole number that every JSON reader keeps exactly
_DOSE = ("No", "Steady", "Up", "Down")
_DRUGS = ("metformin", "glimepiride", "glipizide", "glyburide", "pioglitazone", "rosiglitazone", "insulin")
_ICD9 = r"[0-9]{1,3}(\.[0-9]{1,2})?|V[0-9]{2}(\.[0-9]{1,2})?|E[0-9]{3}(\.[0-9])?"
_ICD9_EXAMPLES = ("428", "250.83", "414", "486", "V57", "E885", "8", "780.2")
# The codes of IDS_mapping.csv, published with the table. Without 11, 13, 14, 19, 20 and 21: a patient who died or went
# to a hospice cannot be readmitted, so no model here may be asked about one.
_DISCHARGE = (*range(1, 11), 12, *range(15, 19), *range(22, 31))
_SOURCE = (*range(1, 16), *range(17, 27))

_SPECIALTY_GROUPS: dict[str, tuple[str, ...]] = {
    "internal": ("InternalMedicine", "Hospitalist"),
    "emergency": ("Emergency/Trauma",),
    "family": ("Family/GeneralPractice",),
    "cardiology": ("Cardiology",),
    "surgery": (
        "Surgery-General",
        "Surgery-Cardiovascular",
        "Surgery-Cardiovascular/Thoracic",
        "Surgery-Colon&Rectal",
        "Surgery-Maxillofacial",
        "Surgery-Neuro",
        "Surgery-Plastic",
        "Surgery-PlasticwithinHeadandNeck",
        "Surgery-Thoracic",
        "Surgery-Vascular",
        "Surgeon",
        "SurgicalSpecialty",
        "Proctology",
        "Urology",
        "Ophthalmology",
        "Otolaryngology",
        "Podiatry",
        "Dentistry",
    ),
    "orthopedics": ("Orthopedics", "Orthopedics-Reconstructive"),
    "nephrology": ("Nephrology",),
    "pulmonology": ("Pulmonology",),
    "gastroenterology": ("Gastroenterology",),
    "oncology": ("Oncology", "Hematology", "Hematology/Oncology"),
    "psychiatry": ("Psychiatry", "Psychiatry-Addictive", "Psychology"),
    "rehabilitation": ("PhysicalMedicineandRehabilitation",),
    "obstetrics": ("ObstetricsandGynecology", "Obstetrics", "Gynecology", "Obsterics&Gynecology-GynecologicOnco"),
    "pediatrics": (
        "Pediatrics",
        "Pediatrics-AllergyandImmunology",
        "Pediatrics-CriticalCare",
        "Pediatrics-EmergencyMedicine",
        "Pediatrics-Endocrinology",
        "Pediatrics-Hematology-Oncology",
        "Pediatrics-InfectiousDiseases",
        "Pediatrics-Neurology",
        "Pediatrics-Pulmonology",
        "Anesthesiology-Pediatric",
        "Cardiology-Pediatric",
        "Psychiatry-Child/Adolescent",
        "Surgery-Pediatric",
        "Perinatology",
    ),
    "radiology": ("Radiologist", "Radiology"),
    "other": (
        "AllergyandImmunology",
        "Anesthesiology",
        "DCPTEAM",
        "Dermatology",
        "Endocrinology",
        "Endocrinology-Metabolism",
        "InfectiousDiseases",
        "Neurology",
        "Neurophysiology",
        "Osteopath",
        "OutreachServices",
        "Pathology",
        "PhysicianNotFound",
        "Resident",
        "Rheumatology",
        "Speech",
        "SportsMedicine",
    ),
}
_SPECIALTY = tuple(sorted(name for names in _SPECIALTY_GROUPS.values() for name in names))


def _count(name: str, low: int, high: int, doc: str, unit: str = "") -> Column:
    return Column(name, "int", doc, unit=unit, low=low, high=high)


def _drug(name: str) -> Column:
    return Column(name, "category", f"Whether {name} was given, and how its dose changed in the stay.", levels=_DOSE)


def _diagnosis(name: str, which: str) -> Column:
    doc = f"{which} diagnosis, ICD-9-CM code; leading zeros may be missing."
    return Column(name, "text", doc, nullable=True, pattern=_ICD9, examples=_ICD9_EXAMPLES)


COLUMNS: tuple[Column, ...] = (
    Column("encounter_id", "int", "Identifies the encounter.", role="id", low=1, high=_ID),
    Column("patient_nbr", "int", "Identifies the patient; splits keep a patient whole.", role="group", low=1, high=_ID),
    Column("age", "category", "Age at admission, in bands of ten years.", unit="years", levels=_AGE),
    Column("gender", "category", "As recorded.", nullable=True, levels=("Female", "Male")),
    Column(
        "admission_type_id",
        "category",
        "1 emergency, 2 urgent, 3 elective, 4 newborn, 5 not available, 6 null, 7 trauma centre, 8 not mapped.",
        levels=tuple(range(1, 9)),
    ),
    Column(
        "discharge_disposition_id",
        "category",
        "Where the patient went, as the published mapping codes it (1 home, 3 skilled nursing, 6 home care, ...); "
        "codes of death and hospice are refused.",
        levels=_DISCHARGE,
    ),
    Column(
        "admission_source_id",
        "category",
        "Where the patient came from, as the published mapping codes it (1 physician referral, 7 emergency room, ...).",
        levels=_SOURCE,
    ),
    _count("time_in_hospital", 1, 14, "Length of the stay.", unit="days"),
    Column("medical_specialty", "category", "Specialty of the admitting physician.", nullable=True, levels=_SPECIALTY),
    _count("num_lab_procedures", 0, 200, "Laboratory tests in the stay."),
    _count("num_procedures", 0, 20, "Procedures other than laboratory tests in the stay."),
    _count("num_medications", 0, 150, "Distinct medications given in the stay."),
    _count("number_outpatient", 0, 366, "Outpatient visits in the year before."),
    _count("number_emergency", 0, 366, "Emergency visits in the year before."),
    _count("number_inpatient", 0, 366, "Inpatient stays in the year before."),
    _diagnosis("diag_1", "Primary"),
    _diagnosis("diag_2", "Second"),
    _diagnosis("diag_3", "Third"),
    _count("number_diagnoses", 1, 50, "Diagnoses entered for the stay."),
    Column(
        "max_glu_serum",
        "category",
        "Highest serum glucose; null where it was not taken.",
        unit="mg/dL",
        nullable=True,
        levels=("Norm", ">200", ">300"),
    ),
    Column(
        "A1Cresult",
        "category",
        "Haemoglobin A1c; Norm is below 7; null where it was not taken.",
        unit="%",
        nullable=True,
        levels=("Norm", ">7", ">8"),
    ),
    *(_drug(name) for name in _DRUGS),
    Column("change", "category", "Whether diabetes medication was changed (Ch) or not (No).", levels=("No", "Ch")),
    Column("diabetesMed", "category", "Whether any diabetes medication was prescribed.", levels=("No", "Yes")),
    Column(
        "readmission_30d",
        "category",
        "1 if readmitted within 30 days of discharge (published: <30), else 0.",
        role="label",
        levels=(0, 1),
    ),
)

# --- diagnoses ----------------------------------------------------------------------------------------------------

# ICD-9-CM chapters by their last three-digit code. As in Strack et al. (table 2), symptoms of one organ system
# (785 circulatory, 786 respiratory, 787 digestive, 788 genitourinary) count with that system; diabetes stands alone.
_CHAPTERS = (
    (139, "infection"),
    (239, "neoplasm"),
    (279, "endocrine"),
    (289, "blood"),
    (319, "mental"),
    (389, "nervous"),
    (459, "circulatory"),
    (519, "respiratory"),
    (579, "digestive"),
    (629, "genitourinary"),
    (679, "pregnancy"),
    (709, "skin"),
    (739, "musculoskeletal"),
    (759, "congenital"),
    (779, "perinatal"),
    (799, "symptoms"),
    (999, "injury"),
)
_ELSEWHERE = {250: "diabetes", 785: "circulatory", 786: "respiratory", 787: "digestive", 788: "genitourinary"}
_CHAPTER_NAMES = (*(name for _, name in _CHAPTERS), "diabetes", "external", "supplementary", "none")
# Conditions known to bring patients back (CMS readmission measures; the comorbidities of Elixhauser et al. 1998).
_CONDITIONS = (
    ("sepsis", 38, 38),
    ("electrolytes", 276, 276),
    ("ischaemic_heart", 410, 414),
    ("arrhythmia", 427, 427),
    ("heart_failure", 428, 428),
    ("stroke", 430, 438),
    ("pneumonia", 480, 486),
    ("copd", 490, 496),
    ("kidney_failure", 584, 586),
    ("skin_ulcer", 707, 707),
)
_DIABETES = {
    "diabetes_plain": "ICD-9 250.0x: without complication",
    "diabetes_acute": "ICD-9 250.1x-250.3x: ketoacidosis, hyperosmolarity, coma",
    "diabetes_chronic": "ICD-9 250.4x-250.9x: kidney, eye, nerves, circulation, other",
    "diabetes_type1": "ICD-9 250.x1 or 250.x3: type I",
    "diabetes_uncontrolled": "ICD-9 250.x2 or 250.x3: uncontrolled",
}
_ANY = (*_CHAPTER_NAMES, *(name for name, _, _ in _CONDITIONS), *_DIABETES)

Facts = tuple[str, ...]


def _diabetes_facts(decimals: str) -> Facts:
    fourth, fifth = decimals[:1] or "0", decimals[1:2]
    kind = "diabetes_plain" if fourth == "0" else "diabetes_acute" if fourth in "123" else "diabetes_chronic"
    type1 = ("diabetes_type1",) if fifth in ("1", "3") else ()
    uncontrolled = ("diabetes_uncontrolled",) if fifth in ("2", "3") else ()
    return ("diabetes", kind, *type1, *uncontrolled)


def _facts(code: str | None) -> Facts:
    """What holds for an ICD-9 code: first its chapter, then conditions and diabetes detail."""
    if code is None:
        return ("none",)
    if code[0] == "E":
        return ("external",)
    if code[0] == "V":
        return ("supplementary",)
    digits, _, decimals = code.partition(".")
    number = int(digits)
    if number == 250:
        return _diabetes_facts(decimals)
    chapter = _ELSEWHERE.get(number) or next(name for last, name in _CHAPTERS if number <= last)
    return (chapter, *(name for name, first, last in _CONDITIONS if first <= number <= last))


_EVERY_CODE: tuple[str | None, ...] = (
    None,
    "E800",
    "V10",
    *(str(n) for n in range(1000)),
    *(f"250.{x}{y}" for x in range(10) for y in range(10)),
)
_KINDS: dict[Facts, int] = {facts: i for i, facts in enumerate(dict.fromkeys(_facts(code) for code in _EVERY_CODE))}


class _KindOfCode(dict[str | None, int]):
    """Row of the diagnosis tables for a code; remembers codes seen, up to a bound because callers choose them."""

    def __missing__(self, code: str | None) -> int:
        kind = _KINDS[_facts(code)]
        if len(self) < 20_000:
            self[code] = kind
        return kind


_KIND_OF_CODE = _KindOfCode()

# --- look-up tables: one row per code of a category, the last row for "missing" (code -1) ---------------------------

_NAN = float("nan")
Group = tuple[str, tuple[int | str, ...]]


class _Lookup(NamedTuple):
    """Matrix columns made from one raw category: row c of the table for code c."""

    column: str
    names: tuple[str, ...]
    docs: tuple[str, ...]
    table: npt.NDArray[np.float32]


def _table(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    table = np.array(rows, dtype=np.float32)
    table.setflags(write=False)
    return table


def _one_hot(column: str, prefix: str, levels: tuple[int | str, ...], groups: Sequence[Group]) -> _Lookup:
    """One 0/1 column per group of levels; a missing value is in the group that lists no level, if there is one."""
    rows = [[float(level in members) for _, members in groups] for level in levels]
    rows.append([float(not members) for _, members in groups])
    docs = (
        f"1 if {column} is {', '.join(str(m) for m in members)}; else 0"
        if members
        else f"1 if {column} is missing; else 0"
        for _, members in groups
    )
    return _Lookup(column, tuple(f"{prefix}_{name}" for name, _ in groups), tuple(docs), _table(rows))


_ADMISSION_GROUPS: tuple[Group, ...] = (
    ("emergency", (1, 7)),
    ("urgent", (2,)),
    ("elective", (3,)),
    ("newborn", (4,)),
    ("unknown", (5, 6, 8)),
)
_DISCHARGE_GROUPS: tuple[Group, ...] = (
    ("home", (1,)),
    ("home_care", (6, 8)),
    ("nursing", (3, 4, 15, 24)),
    ("rehabilitation", (22,)),
    ("long_term", (23,)),
    ("hospital", (2, 5, 9, 10, 27, 28, 29, 30)),
    ("against_advice", (7,)),
    ("outpatient", (12, 16, 17)),
    ("unknown", (18, 25, 26)),
)
_SOURCE_GROUPS: tuple[Group, ...] = (
    ("referral", (1, 2, 3)),
    ("transfer", (4, 5, 6, 10, 18, 19, 22, 25, 26)),
    ("emergency", (7,)),
    ("court", (8,)),
    ("birth", (11, 12, 13, 14, 23, 24)),
    ("unknown", (9, 15, 17, 20, 21)),
)
_TAKEN = ("1 if {} was taken; else 0", "{}: 1 normal, 2 above the first limit, 3 above the second; 0 if not taken")

_LOOKUPS: tuple[_Lookup, ...] = (
    _Lookup(
        "age", ("age_years",), ("Middle of the age band, years",), _table([[5 + 10 * i] for i in range(10)] + [[_NAN]])
    ),
    _Lookup("gender", ("female",), ("1 Female, 0 Male, NaN if missing",), _table([[1.0], [0.0], [_NAN]])),
    _one_hot("admission_type_id", "admission", tuple(range(1, 9)), _ADMISSION_GROUPS),
    _one_hot("discharge_disposition_id", "discharge", _DISCHARGE, _DISCHARGE_GROUPS),
    _one_hot("admission_source_id", "source", _SOURCE, _SOURCE_GROUPS),
    _one_hot("medical_specialty", "specialty", _SPECIALTY, (*_SPECIALTY_GROUPS.items(), ("unknown", ()))),
    _Lookup(
        "max_glu_serum",
        ("glucose_taken", "glucose_level"),
        tuple(text.format("max_glu_serum") for text in _TAKEN),
        _table([[1, 1], [1, 2], [1, 3], [0, 0]]),
    ),
    _Lookup(
        "A1Cresult",
        ("a1c_taken", "a1c_level"),
        tuple(text.format("A1Cresult") for text in _TAKEN),
        _table([[1, 1], [1, 2], [1, 3], [0, 0]]),
    ),
    _Lookup("change", ("medication_changed",), ("1 if change is Ch; else 0",), _table([[0.0], [1.0], [_NAN]])),
    _Lookup(
        "diabetesMed", ("diabetes_medication",), ("1 if diabetesMed is Yes; else 0",), _table([[0.0], [1.0], [_NAN]])
    ),
)

# Dose as a number a tree can cut: not given, lowered, steady, raised; and whether given, raised, lowered.
_DOSE_LEVEL = _table([0.0, 2.0, 3.0, 1.0, _NAN])
_DOSE_COUNTS = _table([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]])


def _diagnosis_tables() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows for the primary code (its chapter and what it counts towards) and for another code (without the chapter)."""
    chapter = _table([[float(name == facts[0]) for name in _CHAPTER_NAMES] for facts in _KINDS])
    counts = _table([[float(name in facts) for name in _ANY] for facts in _KINDS])
    return np.hstack([chapter, counts]), np.hstack([np.zeros_like(chapter), counts])


_PRIMARY_TABLE, _OTHER_TABLE = _diagnosis_tables()

# --- the matrix: (name, what it holds) of every column, in order ----------------------------------------------------

_COUNTS = (
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
)
_DERIVED = (
    ("visits_year_before", "number_outpatient + number_emergency + number_inpatient"),
    ("acute_visits_year_before", "number_emergency + number_inpatient"),
    ("labs_per_day", "num_lab_procedures / time_in_hospital"),
    ("medications_per_day", "num_medications / time_in_hospital"),
)
_DRUG_COUNTS = (
    ("drugs_given", "How many of the seven drugs were given"),
    ("drugs_raised", "How many of the seven doses were raised"),
    ("drugs_lowered", "How many of the seven doses were lowered"),
)


def _diagnosis_docs() -> Iterator[tuple[str, str]]:
    first, chapters = 1, {}
    for last, name in _CHAPTERS:
        also = "".join(f", {n}" for n, chapter in _ELSEWHERE.items() if chapter == name)
        gone = ", ".join(str(n) for n in _ELSEWHERE if first <= n <= last)
        chapters[name] = f"ICD-9 {first}-{last}{f' without {gone}' if gone else ''}{also}"
        first = last + 1
    chapters |= {"diabetes": "ICD-9 250", "external": "ICD-9 E", "supplementary": "ICD-9 V", "none": "missing"}
    details = {name: f"ICD-9 {a}-{b}" if a != b else f"ICD-9 {a}" for name, a, b in _CONDITIONS} | _DIABETES
    for name in _CHAPTER_NAMES:
        yield f"primary_{name}", f"1 if diag_1 is {name} ({chapters[name]}); else 0"
    for name in _ANY:
        yield f"n_{name}", f"How many of the three diagnoses are {name} ({(chapters | details)[name]})"


_LAYOUT: tuple[tuple[str, str], ...] = (
    *((name, "As recorded") for name in _COUNTS),
    *_DERIVED,
    *(pair for lookup in _LOOKUPS for pair in zip(lookup.names, lookup.docs, strict=True)),
    *((name, "0 not given, 1 lowered, 2 steady, 3 raised") for name in _DRUGS),
    *_DRUG_COUNTS,
    *_diagnosis_docs(),
)
FEATURE_NAMES: tuple[str, ...] = tuple(name for name, _ in _LAYOUT)
FEATURE_DOCS: tuple[str, ...] = tuple(doc for _, doc in _LAYOUT)


def _span(names: Sequence[str]) -> slice:
    start = FEATURE_NAMES.index(names[0])
    return slice(start, start + len(names))


_PLACED = tuple((lookup.column, lookup.table, _span(lookup.names)) for lookup in _LOOKUPS)
_DERIVED_AT = _span([name for name, _ in _DERIVED]).start
_DOSES_AT = _span(_DRUGS)
_DRUG_COUNTS_AT = _span([name for name, _ in _DRUG_COUNTS])
_DIAGNOSES_AT = slice(FEATURE_NAMES.index("primary_infection"), len(FEATURE_NAMES))


def _kinds(codes: npt.NDArray[np.object_]) -> npt.NDArray[np.intp]:
    return np.fromiter(map(_KIND_OF_CODE.__getitem__, codes), np.intp, len(codes))


def transform(columns: ColumnArrays) -> npt.NDArray[np.float32]:
    """The feature matrix of n encounters.

    Parameters
    ----------
    columns : arrays of shape (n,)
        The feature columns of ``COLUMNS``, encoded as ``ColumnArrays`` says. Others are not looked at.

    Returns
    -------
    float32, shape (n, d), columns as in ``FEATURE_NAMES``
        NaN only where gender is missing. Row i depends on row i alone.
    """
    stay = columns["time_in_hospital"]
    out = np.empty((len(stay), len(FEATURE_NAMES)), dtype=np.float32)
    for j, name in enumerate(_COUNTS):
        out[:, j] = columns[name]
    acute = columns["number_emergency"] + columns["number_inpatient"]
    j = _DERIVED_AT
    out[:, j] = acute + columns["number_outpatient"]
    out[:, j + 1] = acute
    out[:, j + 2] = columns["num_lab_procedures"] / stay
    out[:, j + 3] = columns["num_medications"] / stay
    for name, table, where in _PLACED:
        out[:, where] = table[columns[name]]
    doses = np.array([columns[name] for name in _DRUGS])
    out[:, _DOSES_AT] = _DOSE_LEVEL[doses].T
    out[:, _DRUG_COUNTS_AT] = _DOSE_COUNTS[doses].sum(axis=0)
    out[:, _DIAGNOSES_AT] = (
        _PRIMARY_TABLE[_kinds(columns["diag_1"])]
        + _OTHER_TABLE[_kinds(columns["diag_2"])]
        + _OTHER_TABLE[_kinds(columns["diag_3"])]
    )
    return out
