"""Words with a full stop that does not end a sentence, by language.

Data only: what the words do to a sentence is decided in ``runtime.text``. A
missing word costs one pause too many, a wrong one a pause too few; so a word
that is also an everyday last word ("no", "mar") is listed only before a number.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Abbreviations:
    """What one language writes with a full stop, without the last stop, in lower case.

    Parts are joined by a stop without spaces ("z.b"). An entry with a capital
    ("M", Monsieur) is an abbreviation only when written so.

    Attributes:
        never_final: Titles and words that always want another word after them.
        before_number: Abbreviations only when a number follows.
        final_before_capital: End a sentence when a capital follows.
        final_before_starter: End a sentence when one of ``starters`` follows.
        starters: Words that, with a capital after a stop, start a sentence.
        lone_words: Single capital letters that are words, not only initials.
        ordinal_openers: Words after which "3." is an ordinal.
        ordinal_nouns: Words before which "3." is an ordinal.
        listed: All abbreviations of the four kinds above.
        compounds: Starts of every entry of several parts, at least two parts long.
    """

    never_final: frozenset[str] = frozenset()
    before_number: frozenset[str] = frozenset()
    final_before_capital: frozenset[str] = frozenset()
    final_before_starter: frozenset[str] = frozenset()
    starters: frozenset[str] = frozenset()
    lone_words: frozenset[str] = frozenset()
    ordinal_openers: frozenset[str] = frozenset()
    ordinal_nouns: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    compounds: frozenset[str] = frozenset()


def _language(**tables: str) -> Abbreviations:
    sets = {name: frozenset(table.split()) for name, table in tables.items()}
    kinds = [words for kind, words in sets.items() if kind.startswith(("never", "before", "final"))]
    listed = frozenset[str]().union(*kinds)
    parts = [entry.split(".") for entry in listed]
    compounds = {".".join(p[:count]) for p in parts for count in range(2, len(p) + 1)}
    return Abbreviations(**sets, listed=listed, compounds=frozenset(compounds))


LANGUAGE_INDEPENDENT = Abbreviations()

ABBREVIATIONS = {
    "en": _language(
        never_final="""
            mr mrs ms mx dr prof rev fr hon gen col maj capt cmdr lt sgt cpl pvt adm gov sen rep
            pres supt messrs vs viz cf e.g i.e approx""",
        before_number="""
            no nos p pp fig figs vol ch sec art eq ed est ver v tel ext ca c
            jan feb mar apr jun jul aug sep sept oct nov dec""",
        final_before_capital="etc a.m p.m",
        final_before_starter="""
            inc ltd co corp jr sr st mt ft ave blvd rd dept univ bros assn al ph.d m.d b.a m.a
            b.sc m.sc""",
        starters="""
            the a an this that these those it its he she they we you i his her their our my your
            in on at by for from with when where while if as but and or so then there here what
            who why how after before since although though however also now no yes not one some
            many most each every all both another next finally first let to once during until
            because do does did is are was were please thank thanks well oh nobody everyone""",
        lone_words="I",
    ),
    "es": _language(
        never_final="""
            sr sra srta sres sras dr dra dres drs dña dn prof profa lic ing arq gral cnel capt
            sto sta mons excmo excma ilmo ilma rvdo hno hna p.ej ej vs aprox""",
        before_number="""
            no núm n pág págs p pp art arts cap vol fig tel tfno tlf c
            ene feb mar abr may jun jul ago sep sept oct nov dic""",
        final_before_capital="etc a.m p.m",
        final_before_starter="ee.uu s.a s.l cía ltda av avda dpto ud uds vd vds jr a.c d.c",
        starters="""
            el la los las un una unos unas lo este esta estos estas ese esa eso esto él ella ellos
            ellas yo tú nosotros usted ustedes en de con por para a al del si cuando donde mientras
            como pero y o no sí se su sus mi me te le nos hay es son era fue después luego entonces
            también ahora aquí así además sin según hoy ayer mañana qué quién""",
    ),
    "de": _language(
        never_final="""
            hr hrn fr dr prof dipl ing mag pfr z.b z.t z.zt d.h u.a u.u o.ä o.g s.o s.u i.d.r i.a
            v.a u.z bzw bzgl ca evtl ggf inkl exkl zzgl vgl sog gem lt max min mind geb gest st""",
        before_number="""
            nr s abb kap bd art abs tab tel jg str ziff aufl
            jan feb mrz apr jun jul aug sep sept okt nov dez""",
        final_before_capital="usw usf etc u.s.w u.s.f u.v.m u.v.a u.dgl",
        final_before_starter="str co jh jhdt v.chr n.chr e.v i.r a.d m.a jr sen abt allg",
        starters="""
            der die das den dem des ein eine einen einem einer dieser diese dieses diesen er sie es
            wir ihr ich du man sein seine in im am an auf aus bei mit nach von vor zu zum zur für
            um über unter wenn als während da dann danach dort hier aber und oder doch so nun jetzt
            auch nicht kein keine was wer wie wo warum weil obwohl denn dabei dazu damit deshalb
            daher außerdem zudem später heute gestern morgen viele alle beide jede jeder jedes""",
        ordinal_openers="am der die das dem den des vom zum zur im beim ab jede jeden jeder jedes",
        ordinal_nouns="""
            januar jänner februar märz april mai juni juli august september oktober november
            dezember jahrhundert jahrhunderts jh weltkrieg weltkriegs geburtstag jahrestag platz
            klasse stock etage auflage kapitel liga bundesliga mal tag woche semester stunde runde
            spieltag minute""",
    ),
    "fr": _language(
        never_final="""
            M MM mme mmes mlle mlles dr drs pr me mgr st ste prof p.ex ex cf env vs capt gén""",
        before_number="""
            n no nos p pp vol chap art fig tél t éd av bd
            janv févr avr juil sept oct nov déc""",
        final_before_capital="etc a.m p.m",
        final_before_starter="cie inc ltée s.a bd boul av jr",
        starters="""
            le la les l un une des du de ce cet cette ces il elle ils elles on nous vous je tu en
            dans sur sous avec sans pour par à au aux si quand lorsque mais et ou donc or ni car
            puis ensuite alors après avant pendant depuis comme où qui que quoi pourquoi comment
            son sa ses leur leurs mon ma mes notre nos c cela ça ceci y ne n d s j qu""",
    ),
    "it": _language(
        never_final="""
            sig sigg sig.ra sig.na dott dott.ssa prof prof.ssa avv ing arch geom rag on mons dr
            dr.ssa card cav comm col ten p.es es cfr ss vs""",
        before_number="""
            n nr pag pagg p pp art artt cap vol fig tel gen feb mar apr mag giu lug ago set sett
            ott nov dic""",
        final_before_capital="ecc etc a.m p.m",
        final_before_starter="s.p.a s.r.l a.c d.c gen jr",
        starters="""
            il lo la i gli le l un uno una questo questa questi queste quello quella egli lui lei
            loro noi voi io tu in di da con su per tra fra a al alla nel nella del della dei delle
            se quando dove mentre ma e o però quindi poi dopo prima allora anche ora qui così come
            che chi cosa perché non è sono era c si ci mi ti vi suo sua""",
    ),
    "vi": _language(
        never_final="tp tx tt gs pgs ts tskh ths bs ks ncs vd mr mrs ms dr st",
        before_number="tr tel đt q p",
        final_before_capital="v.v vv etc a.m p.m",
        final_before_starter="ltd co inc corp",
        starters="""
            tôi anh chị em ông bà cô chú họ nó chúng ta mình và nhưng nếu khi vì thì sau trước trong
            ngoài ở tại với để cho từ một những các mỗi mọi này đó đây hôm ngày năm tháng tuy mặc
            do theo bây hiện còn cũng đã sẽ đang có không người cuộc việc""",
    ),
}
