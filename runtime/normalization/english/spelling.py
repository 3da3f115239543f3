"""What is said letter by letter: initialisms, and words that mix letters and digits."""

from __future__ import annotations

import re

from runtime.normalization.english import numbers
from runtime.normalization.english.rule import words

INITIALISMS = words(
    """
    AA AAA ABC AC ACL ADHD AED AGI AI AKA AMA AMD API APR APY ASAP ASIC ASL ASR ATM AUD AV AWS
    BA CAD CAGR CEO CFO CIA CIO CMO COB COO CPU CSA CTA CTO CVE DIY DOA DOB DOE DOI DOJ EKG
    ECG EDM EDT EMT EOD EOF EPA ER ESG ESL ESPN EST ET ETA ETF EU EUR EV FAQ FBI FDA FPGA FYI
    GIS GMO GNU GPA GPU GUI HBO HIV HOA HP IBM ICU ID IDE IEEE IMAP IMO IMF IOS IOT IP IPA IPO
    IQ IRL IRS ISBN ISO ISP IV IVF IVR JIT KPI LED LGBTQ LLC LOL MBA MIT MRI NBA NCAA NDA NFC
    NGO NHL NIH NSA NYU OBGYN OCD OEM OMG OPM OS OTA OTC OTP PA PDA PE PO POC POS POV PR PTA
    PTO QA ROI RPA RPI RSA RSVP RTA RV SEC SEO SLA SMB SOS SSO SUV TBA TBD TIA TSA UAE UAT
    UCLA UDP UFC UFO UI UK UN UPC UPS URI URL US USA USB USD USPS UTC UV UX VAT VIP WIP WTO
    WWI YTD
    """
)
"""Capitals with a vowel that are said letter by letter; without one all are, but those below."""

WORDS_IN_CAPITALS = words(
    """
    BRR DR GRR HMM MR MRS MS NTH PFFT PSST SHH ST TSK ZZZ
    """
)
"""Capitals without a vowel that are words all the same."""

_RUN = re.compile(r"[A-Za-z]+|\d+")
_VOWEL = re.compile("[AEIOUYaeiouy]")


def spell(letters: str) -> str:
    """Set letters apart: "FBI" is "F B I"."""
    return " ".join(letters.upper())


def is_spelled(word: str) -> bool:
    """Tell whether a word in capitals is said letter by letter."""
    if word in INITIALISMS:
        return True
    return len(word) > 1 and word not in WORDS_IN_CAPITALS and not _VOWEL.search(word)


def letters(run: str) -> str:
    """Say a run of letters that stands beside digits or dots: a word, or letter by letter."""
    if len(run) == 1 or (len(run) <= 4 and not _VOWEL.search(run)) or run in INITIALISMS:
        return spell(run)
    return spell(run) if len(run) == 2 and run.isupper() else run


def mixed(token: str) -> str:
    """Say a word of letters and digits: "A320" is "A three twenty", "MP3" "M P three".

    Two digits are a number, three and four are paired as years are, and more are
    said one by one, as are all of a code that goes back and forth ("XJ9-42B7").
    """
    runs = _RUN.findall(token)
    figures = [run for run in runs if run[0].isdigit()]
    is_code = len(figures) > 1 and sum(map(len, figures)) > 2 and token.upper() == token
    return " ".join(_run(run, is_code) for run in runs)


def _run(run: str, is_code: bool) -> str:
    if not run[0].isdigit():
        return spell(run) if is_code else letters(run)
    if is_code or run[0] == "0" or len(run) > 4:
        return numbers.digits(run)
    if len(run) < 3 or (len(run) == 3 and run.endswith("00")):
        return numbers.cardinal(run)
    return numbers.pairs(run) if len(run) == 3 else numbers.year(run)
