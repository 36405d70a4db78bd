"""Words that speak for or against a run of capitals being a person's name."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

UPPER = "".join(chr(i) for i in range(0x41, 0x530) if chr(i).isupper())

TITLES = "mr mrs ms miss mx dr prof professor sir madam dame lord lady rev reverend father sister brother fr sr judge justice senator sen captain capt col colonel lt lieutenant sgt sergeant major officer detective nurse herr frau señor señora señorita sr. sra sra. srta don doña monsieur madame mademoiselle mme mlle signor signora sig dott dottor dottoressa pan pani".split()  # fmt: skip
PARTICLES = "van von de der den del della di da dos das du la le el al bin ibn ten ter af av zu zur st y e mac".split()
SUFFIXES = frozenset("md phd jr sr ii iii iv esq rn do dds pe cpa dvm mba facs frcs np pa-c".split())

# Given names that are ordinary words, places or months as well: they count for less.
AMBIGUOUS = frozenset(
    "may will mark rose grace hope faith joy june april august summer autumn virginia victoria florence georgia"
    " jordan paris chase bill art gene penny dale cliff pat sue drew jack guy dean grant max miles rob ray rich"
    " frank chuck rusty buddy clay glen heath reed cody chance angel jesus christian pearl ruby opal amber crystal"
    " holly ivy violet iris daisy lily hazel olive ginger rosemary sandy sunny misty dawn eve carol gay merry pan long"
    " an in on my min can hung tuan ping yang ling song so do dung van tien dan bo bin gang hong jin jun lan"
    " mason carter hunter cooper tyler austin dallas madison brooklyn chelsea savannah sierra cheyenne dakota china"
    " asia india israel jade star sky skye melody harmony patience constance charity prudence mercy felicity"
    " norm herb rex duke earl baron king major noble lance pierce nick skip flip chip jay robin martin bernard"
    " sage basil paz sol luz mar sun moon do kim lee kay see say bay ford dev ram om hari uma tara rim ola aya dua"
    " data anti era viola alma mina nada mona lisa sara era noor mai mei rui ting peng jan jo al ed ted ned tim"
    " siri alexa lane page paige blue gray grey marina carolina sofia vienna sydney adelaide regina lourdes mercedes"
    " soledad dolores concepción pilar luna stella aurora gloria victor hugo leo felix dominic saul paul isa ali"
    " said amal salem ana luca mia ella eva era ina iga ida ines enzo elio sole pia piero ren rei rin aoi kai toni"
    " patty patsy marty monty cassie josie dot fanny gert bob moss tove urs ute udo ulf uwe sten stig tor tone thea"
    " una wanda cicely ebba edda ema eman emi emma lava lava lena lia lin lina lise long mandy mike milan".split()
)  # fmt: skip

# Beginnings of sentences, weekdays, months, things with capitals: never a part of a name at its edge.
COMMON = frozenset(
    "a an the this that these those my your his her its our their i i'm i've i'll i'd you he she it we they who what"
    " when where why how which whose is are was were be been am do does did have has had can could will would shall"
    " should may might must not no yes ok okay and or but if then else so because as at by for from in into of off on"
    " onto out over to up with without about after again all also any before between both during each every few here"
    " more most other some such than there too under until very while just only now please thanks thank hello hi hey"
    " dear good morning afternoon evening best kind regards sincerely cheers monday tuesday wednesday thursday friday"
    " saturday sunday january february march april june july august september october november december jan feb mar apr"
    " jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun name names first last full address phone email e-mail"
    " mail date time subject re fwd cc to from note notes user bot agent customer client patient doctor assistant system"
    " question answer title chapter section table figure page part step example version new old north south east west"
    " northern southern eastern western central united states kingdom america american english french german spanish"
    " italian chinese japanese russian indian african european asian christmas easter god lord university college school"
    " hospital clinic center centre institute department office company street road avenue st ave rd drive lane city"
    " county state national international world internet web google facebook twitter microsoft apple amazon windows"
    " linux python java go home help get make take see find read write call ask tell let use try work need want know"
    " think like look come give keep contact send show add create list describe explain summarize translate generate"
    " given sure unlike according however therefore moreover furthermore although though since unless whether once"
    " maybe perhaps people children women men man woman mother mom mum dad father brother sister wife husband son"
    " daughter uncle aunt friend boss manager director president ceo mr mrs ms miss dr prof sir madam rev great big"
    " small high low early late next many much several two three four five six seven eight nine ten one us usa uk eu"
    " fbi cia nasa nato un who cdc fda nih covid hiv aids dna rna mri ct er icu".split()
)  # fmt: skip

# What stands behind the name of a disease, a test, a place or a firm that is called after somebody.
CALLED_AFTER = frozenset(
    "disease diseases syndrome syndromes disorder disorders lymphoma lymphomas leukemia carcinoma sarcoma tumor tumors"
    " tumour cancer fever fevers virus viruses anemia purpura palsy dystrophy sign signs test tests score scale stage"
    " criteria classification procedure operation method technique maneuver reflex phenomenon reaction cell cells body"
    " bodies esophagus contracture thyroiditis arteritis ataxia chorea dementia infection infections bacillus bacteria"
    " fracture hernia duct ducts gland glands tube tubes node nodes loop island islands canal valve law theorem equation"
    " effect principle constant number numbers theory model distribution process transform prize award medal"
    " university college hospital institute foundation school center centre library museum airport station bridge park"
    " street st road avenue ave lane drive square hall house hotel restaurant inc ltd llc corp corporation company co gmbh"
    " plc ag sa group holdings partners associates brothers industries technologies systems solutions bank orchestra"
    " novel concert county city state lake river mountain mount bay beach falls valley hills county act bill protocol".split()
) - {"novel", "concert"}  # fmt: skip
EPONYMS = frozenset(
    "crohn hodgkin alzheimer parkinson huntington wilson graves hashimoto addison cushing sjogren sjögren raynaud"
    " peyronie paget merkel ewing wilms kaposi burkitt barrett meckel henoch schonlein schönlein langerhans zollinger"
    " ellison guillain barre barré tourette asperger down turner klinefelter marfan ehlers danlos gaucher fabry pompe"
    " tay sachs niemann pick krabbe hurler hunter sanfilippo lesch nyhan von willebrand hirschsprung fanconi lynch"
    " gardner peutz jeghers cowden li fraumeni bloom werner hippel lindau recklinghausen sturge weber charcot marie"
    " tooth duchenne becker friedreich creutzfeldt jakob lou gehrig bell ménière meniere behcet behçet kawasaki takayasu"
    " wegener goodpasture alport gilbert crigler najjar dubin rotor reye still lyme bright whipple waldenström"
    " waldenstrom sezary sézary gleason papanicolaou pap fallopian golgi epstein barr coxsackie hendra nipah lassa"
    " marburg ebola junin machupo chapare lujo lyme chagas hansen pott salk sabin apgar glasgow braille heimlich kegel"
    " foley swan ganz hickman medicare medicaid shwachman diamond beckwith wiedemann bowen brenner leydig sertoli kupffer"
    " kimmelstiel wilson bartter gitelman liddle conn cooley hodgkins alzheimers parkinsons".split()
)
_CLINICAL = re.compile(
    r"(?:itis|osis|oses|iasis|oma|omas|emia|aemia|pathy|pathies|plasia|trophy|algia|uria|ectomy|otomy|ostomy|oscopy"
    r"|ology|ologist|ography|gram|tion|tions|sion|ment|ments|ness|ity|ities|ism|isms|ance|ence|ing|ings|able|ible|ical"
    r"|ous|ive|ary|ular|ional|ative|genic|lytic|static|phage|cyte|cytes|blast|penia|rrhea|rrhage|rrhagic|megaly|cele"
    r"|virus|viruses|bacter|coccus|cocci|ase|ases|zole|mycin|cillin|statin|pril|olol|mab|nib|vir|amide|azine|idine"
    r"|oxide|acid|acids|drome|ders|toms|ions|ties|phoid|teria|ella)$"
)
THINGS = frozenset(
    "kidney liver lung heart brain breast skin bone blood cell stem gland prostate pancreas stomach bowel colon rectal"
    " anal cervical ovarian testicular penile vaginal vulvar uterine thyroid adrenal pituitary urine urinary bladder"
    " stone stones cyst cysts polyp polyps failure stroke diabetes prediabetes cancer cancers tumor tumors tract disease"
    " diseases syndrome disorder symptoms symptom treatment treatments diet health care childhood adult juvenile chronic"
    " acute primary secondary gastric hepatic renal cardiac spinal cord nerve nerves muscle muscles vitamin protein"
    " glucose insulin sugar drug drugs medicine medicines test tests type stage risk factor factors cause causes surgery"
    " therapy radiation chemotherapy vaccine fever pain rash cough flu cold virus parasite parasites worm worms hookworm"
    " pinworm lice head body hair eye eyes ear nose mouth throat tooth teeth lip oral soft tissue male female men women"
    " infants newborns pregnancy birth baby song album film movie novel book band party music rock roll game team league"
    " club country island ocean bank card credit account money house senate congress court law act title order number"
    " call score trial phase study research data model customer service product store restaurant hotel food water bus"
    " wisdom discipline capital medium small large simple microscopic hairy germ merkel squamous basal mantle follicular"
    " gallstones gallstone cirrhosis celiac crohn lupus asthma gout shingles measles mumps rubella polio tetanus plague"
    " reflux dumping cyclic heartburn hemorrhoids constipation diarrhea gas obesity weight exercise smoking alcohol".split()
)  # fmt: skip
_SURNAME = re.compile(
    r"(?:[a-z]son|sson|sen|sdóttir|dóttir|ski|ska|sky|skaya|cki|cka|wicz|czyk|czak|owicz|ová|ova|ev|eva|ov|in[ao]v"
    r"|ovič|ović|vić|vic|čić|ić|ič|šek|ček|ák|ík|nen|inen|lainen|ström|strom|berg|lund|gren|quist|qvist|dahl|stad|gaard"
    r"|mann|stein|bauer|meier|meyer|schmidt|escu|eanu|idis|iadis|akis|opoulos|poulos|enko|chenko|chuk|yuk|shvili|dze"
    r"|yan|ian|oğlu|oglu|ez|guez|ópez|ález|ínez|eira|eiro|inho|elli|etti|ucci|acci|ello|otti|asso|moto|mura|yama|kawa|naka"
    r"|zaki|saki|vich|kov|mov|nov|rov|sov|wala|walla|bhai|singh|kaur|stra|sma|huis|broek|dijk|veld|mans|kamp|worth|ham)$"
)

STRONG = re.compile(
    r"(?:\b(?:my|his|her|their|the|your|whose|maiden|last|first|sur|partner's|patient's|customer's|account) ?name(?: on \w+ \w+)?"
    r"(?:'s| is| was|:|\?)?|\bnamed?(?: is|:| was)|\bname:|\b(?:is|was|were|am|he's|she's) called|\bi am called|\bnamed"
    r"|\bsigned(?: by)?,?:?|\battn:?|\bc/o|\bon behalf of|\bseen by|\btreated by|\bspoke (?:to|with)|\bspeak (?:to|with)"
    r"|\b(?:my|his|her|their|our|your) (?:\w+ )?(?:wife|husband|kid|son|daughter|brother|sister|mother|father|mom|mum|dad"
    r"|uncle|aunt|cousin|nephew|niece|friend|boss|neighbou?r|colleague|partner|girlfriend|boyfriend|doctor|lawyer|landlord"
    r"|grandfather|grandmother|teacher|therapist|manager)(?: is)?(?: called| named)?,?"
    r"|\bpatient(?: name)?:|\bcustomer:|\bcontact(?: person)?:|\bfollow up with|\bdirected by:?|\bwritten by:?|\bauthor:|\bfrom:|\bto:|\bsender:|\brecipient:|\bemployee:"
    r"|\b(?:ich heiße|mein name ist|je m'appelle|mi nombre es|me llamo|mi chiamo|meu nome é|ik heet|mijn naam is"
    r"|jag heter|mitt namn är|nazywam się|mam na imię|jmenuji se|nimeni on|ime mi je|a nevem))\s{0,8}[\"'(]?$"
)
MEDIUM = re.compile(
    r"(?:^|[\s(\"'])(?:dear|hi|hello|hey|i'm|i am|this is|it's|it is|under|speaking is|regards,?|sincerely,?|thanks,?"
    r"|cheers,?|love,?|yours,?|by|assistant to|brainchild of|features?|tribute to|concert by|met|meet|visit(?:ed)?|married"
    r"|to marry|says|said|told|asked|called|emailed|texted|saw|hired|fired|sued|arrested|accused|thanked|interviewed|with ms\.|heard"
    r"|remember me,|leave me|shouted at|given|daughter of|son of|widow of|brother of|sister of|correct it to|address:|ex-\w+"
    r"|producer|singer|actor|actress|author|director|writer|painter|poet|professor|president|senator|is it)\s{0,3}[\"'(]?$"
)
AFTER = re.compile(
    r"^(?:,? (?:said|says|wrote|writes|told|asked|shouted|replied|explained|added|lives?|lived|was born|is a \d|is an? \w+ old"
    r"|works (?:at|for|as)|worked (?:at|for|as)|called|emailed|here|speaking|can i|can you|could you|listed|spent a year"
    r"|had given|flew|will be (?:talking|speaking)|is the (?:keynote|ceo|cto|founder|director|author)|and his|and her"
    r"|from [A-Z]|of [A-Z][a-z]+ is the|\(\d{4}|, ?\d{2},|, the \w)|['’]s (?:address|email|phone|number|wife|husband|name"
    r"|house|account|birthday|mother|father|son|daughter|killers?|lawyer|concert|boss|car|cautionary)|[\"”]? ?<?[\w.+-]+@|: ?[\"“])",
    re.I,
)


@cache
def given_names() -> frozenset[str]:
    """Common given names of many countries, in lower case."""
    text = (resources.files("tunewright.data.redact") / "given_names.txt").read_text(encoding="utf-8")
    return frozenset(w for line in text.splitlines() if not line.startswith("#") for w in line.split())


def ordinary(word: str) -> bool:
    """Whether a lower-case word is one of a trade or a thing rather than a name, as far as its form tells."""
    if word in THINGS or word in COMMON:
        return True
    clinical = len(word) > 5 and any(_CLINICAL.search(w) for w in (word, word[:-1], word[:-2]))
    return bool(clinical) and word not in given_names()


def like_a_surname(word: str) -> bool:
    """Whether a lower-case word ends as family names do in some language."""
    return len(word) >= 5 and _SURNAME.search(word) is not None
