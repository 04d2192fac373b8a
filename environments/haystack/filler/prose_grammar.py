"""The sentence frames and general words of the filler prose: data only, written for this project; `grammar.py` reads it.

Notation: alternatives stand on lines or between `|`; `(a|b|)` is a choice of its own, the last one empty; `a@` becomes
a or an; `{name}` is another symbol of this table, of the topic at hand (`prose_topics.py`) or of the cast:

    {S}  the subject, a name or a pronoun           {N}  the same, always by name
    {O}  another character                          {he} {him} {his} {himself}  the subject again
    {town}  here    {elsewhere}  another place      {absent}  a person spoken of
    {do} {did} {done} {doing}  a verb phrase of the topic
"""

GRAMMAR: dict[str, str] = {
    # ---- sentence kinds: whole sentences -------------------------------------------------------------------------
    "opening": """
        {work} (had occupied|had divided|had fed|was the pride of|had ruined more than one family in) {town} for {span}.
        (Nobody|No visitor|Hardly a soul) (came|travelled) to {town} (except for
        |without hearing of) {work}, and {weather}.
        {work} began {when}, and by {season} {crowd} (talked|spoke) of little else.
        In {town}, {where} of {elsewhere}, {work} (went on|continued|moved forward) (through {season}
        |without much ceremony).
        {weather} the {day} {S} first saw {town}, where {work} was (half finished|already late|the talk of every table).
        Of all the trades in {town}, {work} (paid the least|asked the most|lasted longest|made the fewest friends).
        (Strangers|Visitors|People from {elsewhere}) who asked for {town} were told to follow {sense} as far as {loc}.
        {town} was a@ {adj_place} place, {where} of {elsewhere}, and {work} (gave it|lent it) {most} of its (noise
        |bread|pride).
        {when}, {work} passed (into the hands of|to) {O}, and {crowd} waited to see (what would follow
        |who would be paid).
        There were {count} ways into {town}, and each of them led (in the end|sooner or later) past {loc} to {work}.
        It was {season} in {town}, {work} stood (behind its time|at a crossing of ways|idle), and {trouble}.
        (What|Whatever) {town} owed to {work} could be (seen|heard
        |smelled) {where_near} {loc}, where {sense} never ceased.
        """,
    "scene": """
        {weather}.
        {weather}, and {sound}.
        {sound}.
        {sound}, and {weather}.
        {open_free}, {weather}.
        {open_free}, {sound}.
        {where_near} {loc}, {things} {lay} {state_many}.
        {where_near} {loc} {lay} {things}, {state_many}, {like}.
        {thing} stood {state_one} {where_near} {loc}.
        {where_near} {loc} stood {thing}, {adj_thing} and {adj_thing}, {like}.
        {open_free}, {crowd} {gathered} {where_near} {loc} (to hear about|to argue over|and talked of) {matter}.
        {crowd} {gathered} {where_near} {loc}, and {sound}.
        There was {sense} {where_near} {loc}, and {sense} (beyond|behind|under) it.
        {open_free}, there was nothing {where_near} {loc} but {things} and {sense}.
        A@ {adj_thing} {smallthing} {lay} (forgotten|unclaimed|half hidden) {where_near} {loc}.
        {thing}, which had (come|been bought) from {elsewhere} {when}, stood {state_one}.
        The light {where_near} {loc} was {lightadj}.
        {open_free}, the light {where_near} {loc} turned {lightadj}, {thing} {seemed} {comparative}, and {sound}.
        It was a@ {adj_day} {daypart}, {lightadj} and {lightadj}, with {sense} (in the air|on the wind|all round).
        The road (from|to) {elsewhere} was {roadstate}, so that {stuff} came {manner} or not at all.
        """,
    "intro": """
        {S} had (lived in|come to|worked in|returned to|married into) {town} {when_far}, and since then had {done} \
        (in all weathers|without complaint|better than most|for little pay).
        It was {S} who {did}.
        It was {S} who {did}, {join} {second}.
        Nobody (knew|understood|handled) {thing} (better than|as well as|so patiently as) {S}.
        {S} was {adj_age}, {mood} and {mood}, and {who_past}.
        {S} {who_past}.
        {S} {who_past}, {join} {second}.
        The {worst} of the work fell to {S}, who {who_past}.
        {open_free}, {crowd} sent for {S}, who {did} {where_near} {loc}.
        {crowd} (liked|trusted|relied on|teased|grumbled at|looked up to
        |made room for) {S}, and {when_later} {he} {did}.
        {open}, {S} {did}.
        {S} {did} {tail}.
        Among (them|the rest|so many) {S} was easily (found|known
        |remembered) by a@ {adj_thing} {smallthing} and a@ {adj_thing} {smallthing}.
        To {S} fell the task of {doing}.
        {S} {intended} to {do} before {season_event}, {join} {second}.
        """,
    "deed": """
        {clause}.
        {clause}.
        {open}, {clause}.
        {open}, {clause}.
        {clause} {tail}.
        {clause} {tail}.
        {clause}, {and_then} {after}.
        {open}, {clause} {tail}.
        {open}, {clause}, {and_then} {after}.
        {clause} {tail}, {join} {second}.
        {open}, {clause} {tail}, {join} {second}.
        {clause}, {and_then} {after}, {join} {second}.
        {open}, {clause} {tail}, {join} {second} {tail_free}.
        {clause} {tail}, {and_then} {after}, {join} {second} {tail_free}.
        {open}, {clause} {tail}, {and_then} {after}, {join} {second}.
        {open_because}, {clause}, {and_then} {after}, {join} {second} {tail_free}.
        {open_because}, {clause} {tail}, {join} {second}, and {crowd} {gathered} {where_near} {loc}.
        {open}, {clause} {tail}, {and_then} {after}, and {when_later} {second}, {join} {second}.
        {open_because}, {clause}, {join} {second}, {and_then} {when_later} {O} {did} {tail_free}.
        """,
    "brief": """
        {S} {gesture}.
        {S} {nodded}.
        {S} {said_nothing}.
        {S} {felt} {mood}.
        {S} was {mood}.
        {S} {did}.
        {S} {manner} {did}.
        {S} {went} {where_near} {loc}.
        {S} {waited} {where_near} {loc}.
        {S} blamed {matter}.
        {S} counted {things} {again}.
        {S} would not (hear of it|be hurried|give way|stay for supper|say more).
        {S} had (expected|dreaded|hoped for|guessed) (as much|worse|less).
        {S} bought (more |better |cheaper |){stuff}.
        {S} {respected} the {trait_noun} of {thing}.
        {S} {gesture} and {gesture}.
        {S} thought {manner} of {elsewhere}.
        {S} {knew} {thing} by {touch}.
        {S} trusted neither {thing} nor {O}.
        {S} owed {O} {count} (coins|favours|apologies|letters).
        """,
    "talk": """
        {S} {told} {O} that {trouble}.
        {S} {told} {O} (about|of) {matter}.
        {S} and {O} {disagreed} (about|over) {matter}.
        {S} and {O} {disagreed} (about|over) {matter} {when_later}, {join} {crowd} {did}.
        {S} asked {O} {manner} {whether} {trouble}.
        {S} {said} that {trouble}, {join} {O} {replied} that {trouble}.
        {S} {said} that {matter} (could wait|came first|would be the end of them
        |did not concern {O}), {join} {O} {gesture_of_o}.
        {open_free}, {S} {told} {O} that {trouble}.
        {open_free}, {S} (read|showed|handed) {O} a@ {adj_paper} {paper} (about|concerning|on the subject of) {matter}.
        {O} (wanted|asked|begged|hoped|had come|waited) to hear about {matter}, but {N} (would only talk
        |could speak only|talked instead) of {matter}.
        {N}, {manner_speak}, {said} that {trouble}.
        {N}, who {who_past}, {said} that {matter} had {mattered} {degree} than {matter}.
        {S} {listened} while {O} {explained} {manner} that {trouble}, and {mild_reply}.
        (No|Not a) word passed between {N} and {O} about {matter}.
        {S} {argued} for {matter} and {O} (argued|spoke) against it, {until_free}.
        {S} {said} {manner} that {he} meant to {do}, {whatever_free}.
        {S} {told} {crowd} to {do}, and {O} {manner} told them not to.
        (Not even|Least of all) {O} could persuade {N} that {trouble}.
        {S} wrote to {absent} in {elsewhere} (about|concerning) {matter}, {join} no answer came {when_later}.
        {absent}, {kin_of} {N}, wrote from {elsewhere} that {matter} (gave no less trouble there|had grown worse
        |had been settled).
        """,
    "snag": """
        {open_free}, however, {trouble}.
        Then {trouble}.
        {open_free} {trouble}, and {trouble}.
        It (turned out|came out|appeared|was plain) {when_later} that {trouble}.
        {trouble}, and (with it|after that|from then on) {matter} (became|grew into
        |turned into) a@ {adj_affair} {affair}.
        {trouble}.
        {trouble}, {and_so} {crowd} {did}.
        {S} {discovered} {when_later} that {trouble}.
        {S} (learned|heard|found out|understood) from {O} that {trouble}, and {he} {gesture}.
        {open_free}, {O} came (running|hurrying|limping) from {loc} with {news_that} {trouble}.
        A@ {adj_paper} {paper} from {elsewhere} {said_paper} that {matter} (must wait|lay beyond {his_own} powers
        |would cost double), and {S} {gesture}.
        No sooner had {S} {done} than {trouble}.
        {S} had (hardly|barely|only just) begun {doing} when {O} {said} that {trouble}.
        The {worst} of it was that {trouble}.
        {trouble}, and it was {when_later} before {crowd} {did}.
        {stuff} ran out {when_later}, {trouble}, and {S} {had_to} {do} (alone|by guesswork|with {crowd}).
        It did not help that {trouble}, nor that {matter} (had set {O} against {him}|divided {crowd}
        |was on every tongue).
        """,
    "ask": """
        Who would pay for {stuff}?
        Could {thing} (last|hold|be mended) until {season}?
        What had {O} meant by {matter}?
        Was it {matter}, or only {matter}, that troubled {N}?
        Why had nobody (thought of|looked at|mentioned) {things}?
        How long could {crowd} go on {doing} if {trouble}?
        Had {S} been (wrong|foolish|too quick) to {do}?
        If {trouble}, who {where_near} {loc} would (admit|deny|remember) it?
        Where was {stuff} to be had {when_season}?
        And what of {matter}?
        Would {O} have {done} {tail_free}?
        What a@ {adj_affair} {affair} it was!
        How (shabby|fragile|handsome|ugly|clumsy|enormous|humble|elegant|strange|rusty|old
        |plain) {thing} {seemed} {when_later}!
        Was there, {S} wondered {when_later}, any {cure} for {matter} that did not (ruin|offend|outlast) {crowd}?
        """,
    "thought": """
        {S} {mused} that {maxim}.
        {S} {mused} that {maxim}, and that {trouble} {because_of_it}.
        {open_free}, {S} {mused} that {maxim}.
        (Perhaps|Possibly|It might be that) {maxim}, {S} {mused}, and {matter} (proved as much|would pass).
        {S} remembered {memory}, and {gesture}.
        {S} remembered {memory}, {when_far}, when {absent} {did}.
        {absent} had once {said} that {maxim}, but had never had to {do}.
        {open_free}, {S} {lay_awake} and {went_over} {matter}, {matter} and {matter}.
        {S} had come to {love} {sense}, as one (comes to love|grows used to|forgives) {likeness}.
        {S} did not {regret} {matter}; {he} {regretted} {matter}.
        (Neither|Not) {O} nor {crowd} would have guessed how {mood} {matter} had made {N}.
        {S} was {adj_age} and {mood}, and {maxim}.
        For {span} {S} had {done}, and {only_now} {he} {wondered} whether {matter} could be worth so much {abstract}.
        {S} (wondered|asked {himself}|tried to guess|could well imagine) what {absent} would have said about {matter}.
        {maxim}, or so {S} {told_himself} {where_near} {loc}.
        There was a kind of {abstract} in {doing}, {S} {mused}, that {matter} could not (spoil|buy|teach).
        """,
    "close": """
        {open_free}, {S} {did}, and {weather}.
        {S} went home (by way of|past|along) {loc}, {mood}, and {sound}.
        {weather}, and {work} (went on|could wait until morning|was not mentioned again).
        {open_free}, {crowd} went home, {S} {gesture}, and {thing} stood {state_one}.
        {S} and {O} (shared|finished|divided) {meal} {where_near} {loc} and said no more about {matter}.
        Whatever {O} believed, {S} was {mood}.
        So {matter} was left (as it was|to {season}|to {O}|for another day).
        {S} folded the {paper}, {gesture}, and for once noticed {sense}.
        {sound}, {like}, and {S} (let|was content to let) {matter} rest.
        What remained was {abstract}, and perhaps {abstract}.
        """,
    # ---- clauses about {S} ---------------------------------------------------------------------------------------
    "clause": """
        {S} {did} | {S} {did} | {S} {manner} {did} | {S} {manner} {did}
        {S} {began} {doing} | {S} spent {span} {doing} | {S} had {manner} {done}
        {S} {intended} to {do} | {S} {intended} to {do} {when_later}
        {S} {wanted} {O} to {do} | {S} {asked} {O} to {do} | {S} helped {O} to {do}
        {S} watched {O} {do} | {S} found {O} {where_near} {loc}, {doing}
        {S} learned from {O} (how|when|where) to {do} | {S} refused to {do} without {stuff}
        {S} stopped {doing} and {gesture} | {S} {gesture} | {S} {gesture} and {did}
        {S} {went} {where_near} {loc} | {S} {waited} {where_near} {loc} {with_his}
        {S} {carried} {parcel} {toward} {loc} | {S} brought {parcel} and {parcel} from {elsewhere}
        {S} {felt} {mood} | {S} {seemed} {mood} and {mood} | {S} {looked_at} {thing}
        {S} {looked_at} {things} | {S} kept {parcel} {where_near} {loc}
        {S} (sent|waited|searched|bargained|quarrelled) for {stuff} | {S} ordered {stuff} from {elsewhere}
        {S} {disagreed} with {O} (about|over) {matter} | {S} made a@ {adj_paper} {paper} (of|about|on) {things}
        {S} ate {meal} {where_near} {loc} | {S} left {loc} {manner}
        {S} {looked_at} {thing} with {no_little} {feeling} | {S} paid {crowd} (in|with) {stuff}
        {S} traded {parcel} for {stuff}
        {S} laid {parcel} beside {thing} | {S} leaned {parcel} against {thing}
        {N}, who {who_past}, {did} | {N}, who {who_past}, {gesture}
        {N}, {mood} and {mood}, {did} | {S} could neither {do} nor {do}
        {S} {did} as {manner} as {he} could | {S} {intended} to {do} and {did} instead
        {N}, {with_his}, {did} | {S} taught {crowd} to {do} | {S} {did} and {did}
        {S} blamed {O} for {matter}
        """,
    "second": """
        {O} {did} | {O} {did} | {O} {manner} {did} | {O} {gesture_of_o}
        | {O} only (shrugged|smiled|shook hands|looked on)
        {crowd} {did} | {crowd} {gathered} {where_near} {loc} | {weather} | {sound} | {trouble}
        {thing} stood {state_one} | {things} {lay} {state_many} | nobody (remarked on|noticed|objected to) {matter}
        {O} {went} {where_near} {loc} | {O} {began} {doing} | {crowd} {began} {doing}
        """,
    "after": """
        {did} | {gesture} | {manner} {did} | {went} {where_near} {loc} | {began} {doing}
        | {carried} {parcel} {toward} {loc}
        {looked_at} {things} | {looked_at} {thing} | {told} {O} about {matter} | (called|sent) for {stuff}
        """,
    "open": """
        {open_free} | {open_free} | {open_free} | {open_free} | {open_because} | {open_because} | {open_because}
        having {done} | having {done} | still {mood} | {with_his} | instead of {doing} | after {doing} | {manner}
        | {manner} but {manner}
        unlike {O} | unlike {crowd} | tired of {doing} | {mood} as ever | {mood} and {mood} | before {doing}
        """,
    "open_free": """
        {when} | {when} | {when} | {when} | {when_later} | {when_later} | {when_later} | {where_near} {loc}
        | {where_near} {loc}
        by {season} | for {span} | in {season}
        """,
    "open_because": """
        because {trouble} | since {trouble} | although {trouble} | while {crowd} {did} | when {sound}
        | in spite of {matter}
        because of {matter} | for want of {stuff} | when {trouble} | with {matter} in mind | now that {trouble}
        | while {O} {did}
        """,
    "tail": """
        {tail_free} | {tail_free} | {tail_free} | before {doing} | after {doing} | without {doing}
        {where_near} {loc} | {where_near} {loc} | {when_later} | {when_later} | {when_later} | while {O} {did}
        | while {O} {did} | while {O} {did}
        as if {as_if} | with {no_little} {feeling} | with {no_little} {feeling} | and {gesture}
        """,
    "tail_free": """
        although {trouble} | because {trouble} | even though {trouble} | while {crowd} {did} | while {crowd} {did}
        | in spite of {matter}
        {until_free} | until {season} | as {weather} | now that {trouble} | {when_later} | {when_later}
        where {things} {lay} {state_many}
        """,
    # ---- joints --------------------------------------------------------------------------------------------------
    "and_then": "and | then | and | but | and then | and soon | but first | and at last",
    "join": "and | and | but | while | while | so | and meanwhile | though | yet",
    "and_so": "and so | so | and therefore | and for {span}",
    "until_free": """until {trouble} | until {weather} | until {thing} stood {state_one}
        | until {crowd} {gathered} {where_near} {loc}""",
    "whatever_free": """whatever {O} (thought|said|advised) | whether or not {trouble} | {until_free}
        | if only {crowd} would help
        | even if {trouble}""",
    "because_of_it": "(all the same|none the less|in any case|as a result|by way of example)",
    # ---- time and place ------------------------------------------------------------------------------------------
    "when": """
        (before|after|toward|around|just before|long after|shortly after) (dawn|noon|dusk|sunrise|supper|midnight
        |breakfast|nightfall|sundown)
        on the (second|third|fourth|fifth|sixth|ninth|tenth|last|first) (day|morning|evening|night|afternoon|Sunday
        |Monday)
        (late in|early in|halfway through|some time during) (the week|the month|{season})
        {count} (days|weeks|nights|months|hours) (before|after|into|past) {season_event}
        (one|that|the same|every other) (morning|evening|afternoon|Tuesday|Friday|Saturday|night)
        in the (grey|quiet|cold|slack|idle|golden) (hour|days|weeks|month) (before|after) {season_event}
        """,
    "when_later": """
        (a little|much|some days|an hour) later | that (same |very |)(evening|night|week|winter|afternoon|morning)
        | within the (hour|day|month)
        by (noon|nightfall|evening|midnight|then) | at last | in the (end|meantime|morning|evening)
        before {season_event} | after {season_event} | the following (night|spring|Sunday|afternoon)
        | in the small hours
        toward evening | before long | a (day|week|month|fortnight) later | the next (day|morning|week)
        | in due course
        """,
    "when_far": """
        (years|a generation|ten years|long|many summers) before
        | in (his grandfather's|her mother's|a better|another|the old mayor's) (time|day|century)
        when {absent} was (alive|young|still in {town}|master there)
        | in the year of the (flood|comet|hard frost|cattle plague|great fire|eclipse)
        """,
    "when_season": """in {season} | so late in the year | before {season_event} | at such a price
        | with the roads {roadstate}""",
    "season": """(the|early|late) (spring|autumn|summer|winter) | harvest | midsummer | the first snow | the new year
        | October | February
        | the end of March | the thaw | November | the dog days | April | the shortest day | lambing time
        | the long vacation""",
    "season_event": """the (thaw|first frost|equinox|new moon|hiring fair|harvest supper|flood|election|wedding
        |funeral|holiday|census|storm|feast)
        | Easter | Christmas | midsummer | Michaelmas | payday | Lent | Twelfth Night | the dry spell""",
    "span": """(two|three|four|five|six|seven|nine|eleven|forty|a dozen) (days|weeks|winters|summers|years|months
        |hours) | (most|half|the better part) of {season}
        | a (week|month|year|fortnight|lifetime|whole season) | the best part of a (day|year|decade|morning)""",
    "where": "(north|south|east|west|downriver|inland|uphill|half a day|two hours|within sight)",
    "where_near": """at | near | beside | behind | beyond | by | close to | in sight of | within reach of
        | not far from | next to
        | on the far side of | to the left of | in front of | across from | somewhere near | just past
        | in the shadow of | round the back of""",
    "toward": "to | toward | past | as far as | round by | back to | away from | down to | over to | up to",
    "daypart": "morning | evening | afternoon | night | daybreak | noon | twilight | hour",
    "day": "(day|morning|evening|night|week|winter|summer|spring)",
    "roadstate": """deep in mud | blocked with snow | white with dust | under water | rutted past mending
        | closed at the ford | crowded with carts
        | glazed with ice | strewn with branches""",
    "weather": """
        (a thin rain|sleet|a warm drizzle|fine snow|hail|a spring shower) (fell|drifted|came down|blew|swept) (over
        |across|onto|along) {loc}
        (a cold wind|a stiff breeze|an east wind|the first gale|a sea wind|a dry southerly) (rattled|worried
        |tugged at|searched|scoured) {things}
        (fog|mist|low cloud|wood smoke|haze|a white vapour) (hung|settled|lingered|lay|thickened) (over|round|about
        |above) {loc}
        (the sun|a pale moon|the evening star|a watery light|daylight) (rose|came up|stood|showed|glimmered) (over
        |behind|beyond|above) {loc}
        (frost|dew|thin ice|rime|soot|dust) (silvered|covered|whitened|edged|dulled) {things}
        the (heat|cold|damp|stillness|gloom|glare) {where_near} {loc} (was oppressive|grew worse|lifted|eased
        |deepened|drove everyone indoors)
        (swallows|crows|starlings|rooks|two magpies|wild geese|swifts) (wheeled|gathered|quarrelled|passed
        |circled) (over|above|round) {loc}
        the (river|sky|horizon|hillside|far shore|valley) was {lightadj}
        """,
    "comparative": """smaller | larger | older | newer | heavier | shabbier | stranger | cleaner | darker | taller
        | rustier | farther off | almost handsome""",
    "lightadj": """grey | amber | leaden | thin | milky | copper | silver | faint | yellow | blue | harsh | lavender
        | pearly | dim | clear as water
        | the colour of (pewter|slate|weak tea|ashes|straw|a dove|old brass|wet sand)""",
    "sound": """
        {sense} (carried|drifted|came|rose|floated|spread|reached) (from|past|over|across|beyond) {loc}
        {sense} (filled|haunted|hung about|surrounded|announced|softened) {loc}
        (a dog barked|a cart rattled|a door slammed|a child called|a fiddle played|a cock crowed|a gate swung
        |a kettle sang|a clock struck|a baby cried) {where_near} {loc}
        {sense} (woke|soothed|troubled|followed|reached) {crowd}
        (somebody|someone|a boy|an old man|a woman) (whistled|sang|coughed|laughed|hammered|swore) {where_near} {loc}
        """,
    # ---- what people do ------------------------------------------------------------------------------------------
    "began": """began | went on | kept | resumed | tried | disliked | put off | enjoyed | insisted on | gave up
        | finished | risked | could not avoid""",
    "intended": """meant | hoped | intended | promised | planned | wanted | offered | longed | agreed | was ready
        | had come | threatened | prepared
        | was told | swore | was afraid | had been hired | was too proud | resolved | was slow""",
    "had_to": "had to | was forced to | was obliged to | chose to | learned to | managed to | was left to",
    "wanted": "wanted | expected | needed | begged | urged | longed for",
    "asked": """asked | told | persuaded | ordered | begged | invited | forced | hired | advised | dared | taught
        | allowed | encouraged""",
    "went": """went and stood | sat down | settled | lingered | paused | knelt | hid | stopped | wandered about
        | slept | remained | turned up | loitered
        | walked up and down | took shelter | could be found | crouched | rested | dozed""",
    "waited": """waited | stood | hesitated | sat | kept watch | paced | loitered | stayed | leaned on the rail
        | shivered""",
    "carried": """carried | dragged | wheeled | sent | took | hurried | lugged | brought | lent | handed | smuggled
        | rolled""",
    "looked_at": """examined | looked at | studied | admired | inspected | frowned at | described | checked | cleaned
        | sketched
        | pointed at | walked round | considered | asked about | worried about | took care of | complained of""",
    "gesture": """
        (rubbed|scratched|wiped|pinched|stroked) {his} (chin|forehead|nose|neck|jaw|eyes|knuckles|ear)
        (folded|unfolded|crossed|rolled up) {his} (arms|sleeves|apron|shawl|gloves|map|handkerchief|newspaper)
        (took off|straightened|turned up|brushed|buttoned|shook out) {his} (coat|collar|hat|cuffs|scarf|cap|jacket
        |boots)
        (looked|stared|gazed|glanced|peered) (away|upward|at the floor|out of the window|toward {loc}
        |over {his} shoulder|at {thing})
        (drank|stirred|poured|refused|spilled|blew on) (a cup of tea|the last of the coffee|a glass of water
        |some broth|warm milk)
        (lit|trimmed|put out|carried off|lowered) (a lamp|the lantern|a candle|{his} pipe)
        (laughed|sighed|coughed|yawned|whistled|hummed|wept|swore) (quietly|aloud|into {his} sleeve
        |under {his} breath|for no reason|a little|twice)
        (shut|opened|slammed|held|leaned on) the (door|window|gate|shutter|drawer|hatch)
        (counted|pocketed|spent|hid|lost|borrowed) (a few coins|the change|a week's pay|{his} wages|half a crown)
        (said|muttered|added|murmured) (a proverb|nothing useful|something kind|a short prayer|the name of {absent}
        |a word nobody caught)
        """,
    "gesture_of_o": """(looked|turned|walked|moved|stepped) (away|aside|toward {loc}|off)
        | (smiled|shrugged|frowned|laughed|nodded|sighed|coughed)
        (at the thought|in reply|without heat|for a moment|into a cup|all the way home|and let it pass)
        (said|answered|promised|offered|admitted) (nothing|very little|a good deal|only half of it)
        (changed the subject|went for {stuff}|asked for time|pretended not to hear|left the room|poured more tea
        |took up a pencil)""",
    "nodded": """nodded | shrugged | smiled | frowned | agreed at once | shook hands | kept still | looked doubtful
        | blushed | hesitated | gave in | woke early
        | slept badly | ate little | came home late | lost patience | laughed aloud | turned pale
        | went without supper | kept calm""",
    "said_nothing": """said nothing | was not convinced | had no answer
        | kept {his} (temper|counsel|distance|word|silence) | made no reply
        | understood at once | did not ask | let it go | changed {his} mind
        | (missed|remembered|envied|pitied) {absent}""",
    "again": """again | twice | with care | by touch | aloud | from memory | in the dark | three times | and sighed
        | before bed""",
    "felt": "felt | seemed | grew | looked | became",
    "seemed": "seemed | looked | appeared | proved",
    "lay": "lay | stood | waited | rested | stayed | gathered dust",
    "gathered": """gathered | stood about | waited | lingered | came together | quarrelled | sang | gossiped | idled
        | warmed their hands | crowded together""",
    "told": "told | reminded | assured | warned | informed | convinced | wrote to tell",
    "said": """said | insisted | admitted | claimed | announced | repeated | complained | declared | suggested
        | maintained | remarked | conceded | swore | denied
        | observed | explained | whispered | grumbled""",
    "said_paper": "said | announced | warned | hinted | confirmed | stated | regretted",
    "replied": "replied | answered | retorted | objected | countered | said | suspected | was sure",
    "explained": "explained | repeated | argued | confessed | complained | admitted | protested",
    "argued": "argued | spoke | pleaded | made a case | stood up",
    "disagreed": """disagreed | argued | quarrelled | spoke | corresponded | joked | consulted | haggled | talked
        | fell out | bargained | differed""",
    "listened": """listened | sat | waited | stood | nodded | frowned | kept quiet | went on sewing | peeled an apple
        | sharpened a pencil""",
    "mild_reply": """{gesture} | said only that {trouble} | offered {meal} | changed the subject to {matter}
        | asked for {stuff} | made no promise""",
    "whether": "whether | if | how it was that | since when",
    "discovered": """discovered | learned | noticed | heard | found | was told | realised | read | suspected | saw
        | dreamed""",
    "news_that": "(news|word|the report|a rumour|proof|the complaint) that",
    "knew": "knew | recognised | remembered | judged",
    "mused": """thought | believed | supposed | reflected | decided | suspected | felt | concluded | imagined
        | told {himself} | fancied | held""",
    "told_himself": "told {himself} | believed | liked to say | reasoned | wrote in a letter | decided",
    "wondered": "wondered | asked {himself} | tried to decide | wanted to know",
    "regret": "regret | mind | fear | resent | miss | understand | begrudge",
    "regretted": "regretted | minded | feared | resented | missed | envied",
    "love": "love | need | expect | dread | trust | listen for | depend on",
    "lay_awake": """lay awake | sat up late | walked home the long way | stayed by the fire | stood at the window
        | rose before the others""",
    "went_over": "went over | weighed | turned over | puzzled over | listed | brooded on",
    "only_now": """only now | not until {season} | for the first time | in {his} tiredness | too late perhaps
        | to {his} surprise""",
    "mattered": "mattered | counted | cost | weighed | worried {him}",
    "degree": "(far |rather |no |very little |)(more|less)",
    # ---- people and their things ---------------------------------------------------------------------------------
    "who_past": """had (never|seldom|always|once|long) (liked|trusted|avoided|admired|worked with|envied) {crowd}
        had (come|walked|been sent|moved) from {elsewhere} (as a child|with nothing|after the war|for {his} health
        |on foot)
        had (buried|outlived|married|disappointed|nursed) (two husbands|a brother|both parents|{absent}|a rich uncle)
        (disliked|feared|loved|collected|wrote poems about) (noise|heights|cats|maps|clocks|travel|moths|thunder
        |buttons|old songs|small children)
        (could|would|did) not (read|swim|whistle|lie|forgive a debt|keep still|eat before noon|bear idleness)
        knew {thing} as (well|badly|fondly) as anyone in {town}""",
    "kin_of": """(a cousin|an uncle|the sister|an old friend|a rival|the former master|a creditor|the godmother
        |a schoolfellow|an aunt) of""",
    "manner": """slowly | carefully | quietly | patiently | grimly | cheerfully | awkwardly | stubbornly | gladly
        | hastily | calmly | wearily | boldly | neatly
        | absently | doggedly | solemnly | reluctantly | briskly | gently | stiffly | politely | crossly | eagerly
        | nervously | clumsily | deftly | silently
        | promptly | gravely | idly | faithfully | foolishly | methodically | shyly | sternly | sullenly | tenderly
        | thoroughly | warily | willingly | wisely
        | bravely | bitterly | dutifully | earnestly | fondly | furtively | humbly | loudly | meekly | mildly
        | proudly | skilfully | sleepily | tactfully""",
    "manner_speak": """in a (low|flat|dry|hoarse|kindly|tired|clear|shaking) (voice|tone|whisper)
        | with a@ {adj_look} (smile|frown|nod|laugh|shrug|look)
        | not for the first time | without looking up | half asleep | at some length | in few words | smiling""",
    "mood": """anxious | calm | weary | hopeful | restless | ashamed | amused | bitter | content | cross | curious
        | doubtful | eager | grateful | homesick | jealous
        | lonely | proud | puzzled | relieved | sad | shy | sleepy | sorry | stubborn | sullen | tense | thoughtful
        | tired | uneasy | wary
        | bored | cheerful | confused | defiant | discouraged | embarrassed | flushed | forgiving | guilty | hungry
        | impatient | indifferent | irritable
        | melancholy | nervous | obstinate | outnumbered | patient | regretful | serene | silent | sober | sceptical
        | stunned | talkative | untroubled | wistful
        """,
    "adj_thing": """old | narrow | awkward | handsome | shabby | crooked | modest | faded | sturdy | ugly | tidy
        | costly | damp | delicate | dusty | elegant | empty
        | fragile | grubby | heavy | hollow | humble | lopsided | massive | muddy | neglected | ordinary | peculiar
        | plain | precious | rickety | rough | simple
        | slender | solid | strange | threadbare | trim | weathered | worn | ancient | brittle | clumsy | enormous
        | ornate | rusty | splendid | battered | dented
        | patched | painted | mended | foreign | little | stained | greasy | polished | scratched | homemade
        | old fashioned""",
    "adj_place": """narrow | shabby | crooked | modest | quiet | sturdy | tidy | bleak | brisk | damp | dismal
        | drowsy | dusty | gloomy | humble | lively | muddy | neglected
        | noisy | ordinary | plain | prosperous | remote | severe | solemn | steep | windy | weathered | frugal
        | sombre | stubborn""",
    "adj_affair": """awkward | curious | tedious | costly | delicate | dismal | gloomy | immense | lively | noisy
        | ordinary | peculiar | plain | severe | simple | solemn
        | sour | strange | sullen | troublesome | untidy | dreary | splendid | endless | private | painful | silly
        | needless | bitter""",
    "adj_day": """mild | bleak | brisk | damp | dismal | drowsy | quiet | gloomy | windy | dreary | long | bright
        | raw | close | still | cloudless | golden""",
    "adj_paper": """long | short | polite | angry | hasty | careful | crumpled | stained | dull | formal | cheerful
        | clumsy | unsealed | tear stained | muddled | stiff""",
    "adj_look": """slow | crooked | patient | weary | brief | sour | kindly | polite | nervous | broad | guarded
        | tired | sly | sudden""",
    "adj_food": """cold | heavy | plain | sour | burnt | modest | splendid | thick | hasty | greasy | peppery | thin
        | steaming | leftover""",
    "adj_age": """old | young | no longer young | past sixty | barely twenty | older than {O} | middle aged
        | not yet thirty | growing deaf | the youngest there""",
    "smallthing": """glove | bucket | ladder | notebook | basket | hat | whistle | umbrella | saucer | pocket watch
        | tin box | handkerchief | broom | spoon | horseshoe
        | toy boat | walking stick | kettle | prayer book | button | pair of spectacles | thimble | coil of wire
        | fiddle | lunch pail | candlestick | shawl
        | cracked jug | penknife | drum""",
    "parcel": """a@ {adj_thing} {smallthing} | a@ {adj_thing} {smallthing}
        | a (sack|barrow|crate|barrel|handful|bundle|cartload|pail|tray|basket) of {stuff}
        | {thing} | {his} (spectacles|dinner|best coat|father's watch|tools|umbrella|second pair of boots|notes
        |blanket) | a@ {paper} from {absent}
        | (two|three|four|a dozen|a pair of|the last) (candles|loaves|apples|planks|letters|eggs|lemons|stools|pears
        |blankets)""",
    "paper": """letter | list | note | drawing | report | sketch | estimate | telegram | newspaper | bill | diary
        | contract | notice | receipt | postcard | ballad | plan
        | pamphlet""",
    "with_his": """with {his} (hat|collar|hands|boots|hair|sleeves|coat|gloves) (wet|muddy|full of dust
        |in {his} pocket|on backwards|stiff with cold|neatly arranged|black with soot)
        | with {parcel} under one arm | with {parcel} in {his} hands | with one eye on {thing}
        | with {his} back to {loc}""",
    "meal": """(cold|fried|boiled|smoked|stewed|pickled|burnt) (bacon|fish|mutton|eggs|potatoes|cabbage|herring|beef
        |mushrooms|turnips)
        | (bread|porridge|biscuits|oatcakes|dumplings|pancakes) and (cheese|jam|dripping|honey|onions|butter|gravy
        |tea) | a@ {adj_food} (pie|soup|pudding|stew|loaf|supper)""",
    "state_one": """(idle|ready|unfinished|crooked|deserted|open to the rain|untouched|half dismantled
        |exactly where {absent} had left it|under a sheet|in pieces)
        (white with frost|dark with oil|bright with new paint|propped on bricks|tied with string|out of true
        |wet through|in everybody's way|ticking with heat)""",
    "state_many": """(in rows|in a heap|under sacking|out of order|waiting to be sorted|like a row of teeth
        |in the wet grass|three deep|against the wall|where they had fallen)
        (tied in bundles|numbered in chalk|white with frost|ready for {season}|rusting|in the rain|half unpacked
        |without an owner|in perfect order|on trestles)""",
    "like": "{like_so}",
    "like_so": """like a (dog|guest|stranger|bride|cat|new boy) in (an empty house|the wrong church
        |somebody's kitchen|a strange bed)
        like (a man|a woman|someone|an uncle|a child) (counting sheep|reading a will|waiting for a train
        |at a graveside|late for dinner|humming in the bath)
        like (an old|a patient|a tired|a wet|a sick) (horse at a gate|heron in the reeds|dog on a step
        |mule before a hill|hen in the rain|cat by a stove)
        like (actors|soldiers|cousins|judges|schoolboys) (before the curtain|on leave|at a funeral|after a long lunch
        |in the last row)
        like (a page|a leaf|smoke|a rumour|a habit|an old debt) (in a draught|on still water|from another room
        |passed from hand to hand|nobody remembered)""",
    "likeness": """(a|some) (half forgotten|borrowed|broken|favourite|lame|distant|stolen|neighbour's|dead man's
        |child's|second best) (song|shoe|mule|hat|tune|letter
        |coat|story|cousin|chair|quarrel|prayer|drum|bargain|lantern|joke)""",
    "as_if": """{matter} were (settled|nothing|a joke|somebody else's trouble)
        | {thing} might (bite|break|answer back|vanish) | {absent} were watching
        | there were no {season} to come | {trouble} | all {town} were asleep""",
    "touch": "(touch|the sound|its weight|long use|the smell|the scratches|sight|heart)",
    "respected": "knew | respected | mistrusted | understood | described | feared | forgot",
    "trait_noun": "weight | temper | age | price | faults | history | limits | habits | worth | condition",
    "no_little": """no (little|small|great) | more than usual | a good deal of | some | little | growing | open
        | private | undisguised | quiet""",
    "feeling": """care | interest | patience | suspicion | pleasure | envy | concern | amusement | relief | distaste
        | pride | dismay | tenderness
        | annoyance | curiosity | respect | affection | doubt | alarm | contempt""",
    "cure": "cure | excuse | remedy | use | reason | hope",
    "affair": """affair | business | puzzle | quarrel | burden | lesson | story | bargain | matter | muddle
        | question | dispute""",
    "worst": "worst | best | oddest | plainest | hardest | saddest | truth",
    "his_own": "everyone's | the town's | the parish's",
    "most": "most | much | some | the better part | half | all",
    "count": """two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | fourteen | twenty
        | thirty | a dozen | several""",
    "abstract": """patience | pride | thrift | courage | habit | luck | silence | kindness | grief | hunger | skill
        | hope | memory | envy | duty | comfort | order | trust
        | caution | charity | boredom | modesty | ambition | candour | mercy | loyalty | laziness | wit | fatigue
        | faith | regret | leisure | prudence | vanity
        | cunning | gratitude | tact | homesickness""",
    "memory": """(a|the|one) (winter|summer|wedding|funeral|journey|quarrel|supper|voyage|harvest|fever) (in|near
        |on the road to) {elsewhere}
        | {absent} {doing} | how {absent} used to {do} | the (first|last|only) time {he} had {done}
        | the house in {elsewhere} | {his} (mother|father|brother|teacher) {doing}""",
    "maxim": """
        {abstract} (cost|weighed|mattered|counted for|lasted|explained) (more|less|far more|little more) than {abstract}
        {abstract} without {abstract} was (only|merely|no more than|a form of|another name for) {abstract}
        nothing (wore out|tested|ruined|sharpened|excused|hid) {abstract} like {abstract}
        there was (more|less|as much) {abstract} in {thing} than in {crowd}
        those who had {abstract} (seldom|rarely|always|never) (needed|missed|noticed|praised|earned) {abstract}
        {stuff} could be (bought|mended|borrowed|stolen), but not {abstract}
        a@ {adj_affair} {affair} (taught|needed|deserved) {abstract} (rather than|before|as well as) {abstract}
        {crowd} (forgave|forgot|remembered|punished) {abstract} sooner than {abstract}
        {season} (rewarded|mocked|outlasted|brought out) {abstract} and {abstract} alike
        """,
}

# Syllables of the names. No onset of one split is the beginning of an onset of the other, so the splits share no name.
ONSETS: dict[str, str] = {
    "train": """Bal Bren Cal Cor Dal Dren Fal Fen Gar Gwen Hal Hes Jor Kal Kes Lam Lor Mal Mer Nor Nes Pel Per Quil \
        Ral Ros Sal
        Ster Tal Tor Val Ver Wil Wen Yar Zel Ard Elv Ist Orm Umb Bro Cly Dra Fri Gla""",
    "eval": """Bax Bis Car Cus Dov Dus Fid Fos Gim Gos Huv Hov Jas Jud Kir Kob Lix Lud Mox Mib Nix Nud Pas Pov Quo \
        Rix Rud Sib
        Sov Tam Tiv Vas Vox Wab Wic Yol Zan Abr Eps Ing Ock Ulv Blo Cre Dwi Fle Gri""",
}
MIDDLES = "a e i o u al an ar el en er il in ol or un am em is es"
WOMEN = "ra na la dra sa tha ssa wyn lia nia ria beth mina retta delle vette"
MEN = "n ric dan mund bert thor vin ron lo mer ston drew gar bin nard tus"
FAMILIES = """ley ton by combe sett field grove hurst low man mond over pole rick sby shaw ter thwaite vane wick well \
        worth yard zell
    cott dyke gate holm keld ling marsh nell"""
PLACES = """bury stead mouth haven bridge ford minster water hollow moor church ness wold gate cross tarn port stow \
        ham reach
    market sound head bourne"""

# The kinds of sentences after the first one of a paragraph.
PLANS: dict[str, str] = {
    "setting": "scene|scene|scene|scene|deed|deed|deed|deed|brief|brief",
    "action": "deed|deed|deed|deed|deed|deed|brief|brief|brief|talk|talk|scene",
    "dealings": "talk|talk|talk|talk|talk|deed|deed|deed|brief|brief|ask",
    "complication": "talk|talk|talk|deed|deed|deed|deed|deed|snag|snag|ask|brief|brief|brief",
    "reflection": "thought|thought|thought|thought|deed|deed|deed|scene|brief|brief|brief|ask",
}

# Irregular verbs of the topics: base:past:past participle.
VERBS = """
    bid:bid:bid bind:bound:bound blow:blew:blown break:broke:broken build:built:built cast:cast:cast cut:cut:cut
    dig:dug:dug draw:drew:drawn drive:drove:driven feed:fed:fed find:found:found grind:ground:ground hang:hung:hung
    hear:heard:heard hide:hid:hidden hold:held:held lay:laid:laid lead:led:led lend:lent:lent light:lit:lit
    mimic:mimicked:mimicked pay:paid:paid put:put:put read:read:read rebind:rebound:rebound rebuild:rebuilt:rebuilt
    redraw:redrew:redrawn rehang:rehung:rehung repot:repotted:repotted rewrite:rewrote:rewritten ring:rang:rung
    sell:sold:sold set:set:set sew:sewed:sewn shake:shook:shaken shed:shed:shed shoe:shod:shod shoot:shot:shot
    show:showed:shown sing:sang:sung sink:sank:sunk sling:slung:slung sow:sowed:sown spin:spun:spun
    split:split:split spread:spread:spread stick:stuck:stuck strike:struck:struck sweep:swept:swept
    swing:swung:swung teach:taught:taught throw:threw:thrown tread:trod:trodden weave:wove:woven wind:wound:wound
    withdraw:withdrew:withdrawn wring:wrung:wrung write:wrote:written
    """
