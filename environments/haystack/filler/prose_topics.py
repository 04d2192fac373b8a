"""The topics of the filler prose: data only, written for this project; `grammar.py` says how it is read.

Each topic fills the same symbols. Alternatives stand on lines or between `|`; a group in parentheses is a choice of
its own, so a line such as `(haul|drag) (the net|the rope)` holds four phrases.

    work     the undertaking, a singular noun phrase
    loc      a place, after `at`, `near`, `behind`
    thing    one object
    things   several objects
    stuff    a material, without article
    role     a trade, without article
    crowd    several people
    act      verb phrases; the first group holds the verbs in their base form
    trouble  a clause in the past: what went wrong
    sense    a sound or a smell
    matter   what people talk about, a noun phrase
"""

TOPICS: dict[str, dict[str, str]] = {
    "harbour": {
        "work": "the (repair|rebuilding|dredging) of the (harbour|north quay|breakwater)",
        "loc": """the slipway|the north quay|the customs shed|the outer mole|the chandler's door|the tide gauge
            |the boat store
            |the fish steps|the pilot's cottage|the long jetty|the careening beach|the harbour mouth""",
        "thing": """the dredger|the mooring chain|the pile driver|the signal mast|the diving bell
            |the tarred tarpaulin|the capstan
            |the pilot cutter|the sounding line|the stone barge|the winch|the anchor|the lantern post
            |the caulking mallet""",
        "things": """the bollards|the pilings|the granite blocks|the fenders|the mooring rings|the tide tables
            |the oak wedges
            |the cork floats|the iron cramps|the dripping hawsers|the rusted shackles""",
        "stuff": "tar|oakum|granite|rope|ballast|timber|pitch|gravel|canvas|lime mortar",
        "role": "harbour master|diver|clerk of works|shipwright|stonemason|lighterman|rope maker|pilot|customs officer",
        "crowd": "the dockers|the divers|the lightermen|the pilots|two deckhands|the boys from the fish steps",
        "act": """(haul|drag|winch) (the mooring chain|the old anchor|a length of cable) (clear of the mud
            |up the slipway|over the wall)
            (caulk|patch|tar) (the hull|the leaking barge|the seams of the cutter) (below the waterline|
            |with fresh oakum)
            (measure|sound|chart) (the channel|the depth at the bar|the silt) (from a skiff|at low water
            |with a weighted line)
            (set|lower|bed) (the granite blocks|a cornerstone|the last course of stone) (by lantern light
            |behind the cofferdam|)
            (drive|replace|brace) (the rotten pilings|a row of timbers|the broken fenders) (along the jetty
            |before the spring tides)
            (moor|tow|turn) (the dredger|a coal brig|the stone barge) (inside the mole|against the ebb|at first light)
            (mend|splice|coil) (the hawsers|the boat ropes|every line on the quay) (under the awning|beside a brazier
            |)""",
        "trouble": """the sea wall had (cracked|sunk|opened) (along its whole length|beneath the lantern|near the steps)
            (the tide|the swell|a cross current) ran too (high|hard|fast) for (the divers|a loaded barge
            |the small boats)
            a (coaster|schooner|collier) had (torn away|carried off|crushed) (the outer fender|half the scaffold
            |a mooring post)
            the (silt|shingle|mud) came back (each night|faster than the dredger could lift it|with every gale)
            the (quarry|contractor) had sent (soft stone|the wrong timber|short lengths of chain)
            worm had eaten (the pilings|the jetty legs|the oak sheathing) (to the heart|below the weed)""",
        "sense": """the smell of hot tar|the clank of chain|the crying of gulls|the slap of water on stone
            |a reek of weed and diesel
            |the thud of the pile driver|the creak of wet rope""",
        "matter": """the price of granite|the depth of the channel|the harbour dues|the winter gales
            |the contractor's delays
            |the wages of the divers|the berth by the steps|the new breakwater|the pilot's licence""",
    },
    "mill": {
        "work": "the (restoration|running|reopening) of the (water mill|old mill|corn mill)",
        "loc": """the millrace|the sluice|the bin floor|the tail pond|the grain loft|the wheel pit|the flour chute
            |the eel trap
            |the weighing room|the cart yard|the hurst frame|the mill bridge""",
        "thing": """the waterwheel|the runner stone|the sack hoist|the hopper|the wallower|the sluice gate
            |the bolting cylinder
            |the scales|the damsel|the bed stone|the crown wheel|the grindstone|the flour scoop|the oat crusher""",
        "things": """the elm paddles|the applewood cogs|the burr stones|the sacks|the sieve frames|the bearings
            |the mill bills
            |the flour bins|the leather straps|the rat traps|the grain shovels""",
        "stuff": "barley|tallow|elm plank|rye|bran|sacking|middlings|seed wheat|brass",
        "role": "miller|millwright|stone dresser|carter|grain factor|mill hand|baker|farmer|water bailiff",
        "crowd": "the carters|the mill hands|the neighbouring farmers|three sack boys|the gleaners|the bakers' wives",
        "act": """(dress|level|chisel) (the runner stone|the furrows of the bed stone
            |the French burrs) (with a mill bill|by candle|)
            (grease|oil|shim) (the bearings|the wallower|the gudgeon) (with mutton tallow|twice a day|before each run)
            (grind|weigh|sift) (the barley|six sacks of rye|the widow's gleanings) (for the village|without charge
            |on the upper floor)
            (clear|rake|unblock) (the millrace|the trash grating|the culvert) (of fallen leaves|with a long fork
            |up to the waist in water)
            (carve|fit|season) (new cogs|a set of paddles|the elm floats) (from applewood|by the stove|)
            (raise|ease|drop) (the sluice gate|the penstock) (a hand's breadth|at the first bell|against the flood)
            (sweep|bag|shovel) (the middlings|the spilled grain|the warm flour) (into bins|toward the chute|)""",
        "trouble": """the (wheel|main shaft|great spur wheel) had begun to (groan|slip|shudder) (under load
            |at every turn|)
            (weevils|rats|sparrows) had got into the (seed wheat|grain loft|bran)
            the (stream|pond|race) was too (low|muddy|full of ice) to (turn the stones|fill the buckets|drive anything)
            a (cog|paddle|bearing) had (split|sheared|worn through) in the (night|middle of a run)
            the (estate|upper farm) had (diverted|dammed) (half the brook|the leat)
            the flour came out (grey|hot|full of grit) (whenever the stones ran close|that week|)""",
        "sense": """the rumble of the stones|the smell of warm flour|the splash of the wheel|a drift of white dust
            |the rattle of the damsel|the sour breath of wet grain""",
        "matter": """the toll on barley|the rights to the water|the price of French stones|the harvest|the eel fishing
            |the widow's debt|the steam mill downriver|the wear of the cogs""",
    },
    "lawsuit": {
        "work": "the (long|tangled|bitter) lawsuit over (the water meadow|the boundary hedge|a right of way)",
        "loc": """the courthouse steps|the clerks' room|the witness bench|the robing room|the advocate's chambers
            |the coffee stall
            |the records counter|the cells|the law library|the stair to the gallery|the disputed hedge""",
        "thing": """the affidavit|the brief|the parish map|the conveyance|the writ|the judge's bell|the inkstand
            |the deed box
            |the petition|the wig stand|the summons|the surveyor's chain|the transcript""",
        "things": """the depositions|the exhibits|the boundary stones|the pleadings|the precedents|the invoices
            |the witness statements
            |the sealing wafers|the bundles of paper|the photographs of the hedge""",
        "stuff": "parchment|sealing wax|patience|red tape|evidence|hearsay|foolscap",
        "role": "advocate|court usher|magistrate|plaintiff|land agent|stenographer|bailiff|notary|process server",
        "crowd": "the jurors|the junior clerks|the reporters|the tenants|both families|the ushers",
        "act": """(read|copy|annotate) (the affidavit|the old conveyance|every deposition) (aloud|line by line
            |in the margin)
            (question|recall|interrupt) (the surveyor|the elder tenant|a nervous witness) (about the hedge|for an hour|)
            (file|draft|withdraw) (a motion|the petition|a second claim) (before the recess|at the records counter|)
            (argue|rehearse|shorten) (the opening speech|the point on easements
            |the case for delay) (before an empty bench|in the corridor|)
            (bundle|number|stamp) (the exhibits|the pleadings|four boxes of letters) (with red tape|for the judge|)
            (visit|pace|sketch) (the water meadow|the disputed hedge|the ford) (in borrowed boots
            |with a chain and a witness|)
            (settle|postpone|reopen) (the question of costs|the hearing) (out of court|for the third time
            |by consent)""",
        "trouble": """the (principal|only|oldest) witness had (changed her story|gone abroad|forgotten the date)
            a page of the (conveyance|parish map|transcript) was (missing|torn|written in another hand)
            the (judge|magistrate) had (fallen ill|retired early|taken against the plaintiff)
            the costs had (outgrown|swallowed|passed) (the value of the meadow|both farms)
            the (other side|opposing counsel) had (found|produced|bought) (a fresh map|an older lease
            |a willing surveyor)
            nobody could (date|place|explain) the (mark on the deed|third boundary stone)""",
        "sense": """the scrape of benches|the scratch of pens|a smell of damp wool and ink|the murmur of the gallery
            |the tick of the court clock|the rustle of gowns""",
        "matter": """the boundary hedge|the costs of the appeal|the judge's temper|the missing page|the right of way
            |the tenants' evidence|the date of the hearing|the value of the meadow""",
    },
    "orchard": {
        "work": "the (replanting|pruning|care) of the (old orchard|cider orchard|pear slope)",
        "loc": """the cider press|the windbreak|the pear slope|the nursery rows|the apple loft|the bee bank
            |the upper gate|the dew pond
            |the ladder shed|the grafting bench|the hazel hedge|the stream bed""",
        "thing": """the press|the longest ladder|the pruning saw|the fruit cart|the frost bell|the apple mill
            |the grafting knife
            |the smudge pot|the wheelbarrow|the sprayer|the cider vat|the oldest tree|the straw hive""",
        "things": """the russets|the grafts|the picking baskets|the beehives|the quinces|the espaliers
            |the slatted trays|the windfalls
            |the young whips|the props|the mistletoe bunches""",
        "stuff": "grafting wax|raffia|straw|cider|manure|woodash|honey|pomace|netting",
        "role": "orchardman|grafter|cider maker|beekeeper|fruit merchant|head picker|nurseryman|cooper|land steward",
        "crowd": """the pickers|the pressing crew|the schoolchildren|the cider makers|two hired brothers
            |the fruit merchants""",
        "act": """(prune|thin|train) (the russets|the espaliers|a crossing branch) (to an outward bud|along the wall
            |from the long ladder)
            (graft|bud|bind) (the scions|a pear shoot|three old varieties) (onto quince stock|with raffia and wax|)
            (pick|sort|wrap) (the windfalls|the last of the quinces|the keeping apples) (into baskets|by size
            |in the cold loft)
            (light|carry|tend) (the smudge pots|the frost fires) (between the rows|until sunrise|)
            (press|taste|rack) (the new cider|the pomace|the perry) (through straw|with great ceremony|)
            (burn|cut|grub) (the cankered wood|a dead plum|the brambles) (before bud break|behind the windbreak|)
            (move|smoke|count) (the hives|the swarm) (after dark|to the clover|without gloves)""",
        "trouble": """(canker|scab|silver leaf) had (spread|crept) (through the russets|along the lower rows
            |into the young stock)
            a late frost had (blackened|taken|ruined) (the pear blossom|the early buds|half the crop)
            (deer|bullfinches|hares) were (stripping|ruining) (the bark|the fruit buds|the new whips)
            the bees would not (fly|settle|leave the hive) (in such wind|that spring|)
            the (merchant|canning works) had (cut his price|refused the russets|stopped buying)
            the drains beneath (the pear slope|the nursery rows) had (collapsed|silted up)""",
        "sense": """the smell of crushed apples|the drone of bees|the snip of shears|a sweetness of rotting windfalls
            |the creak of the press|a thin blue smoke""",
        "matter": """the age of the trees|the crop of pears|the price of barrels|the frost|the beekeeper's rent
            |the lost varieties
            |the pickers' wages|the wasps""",
    },
    "survey": {
        "work": "the (survey|mapping|triangulation) of the (upland|marsh country|eastern ranges)",
        "loc": """the base camp|the summit cairn|the river crossing|the cook tent|the trig point|the mule lines
            |the dry ravine
            |the last ridge|the sheepfold|the peat cutting|the drawing tent|the false summit""",
        "thing": """the theodolite|the plane table|the measuring chain|the barometer|the field book|the tripod
            |the pack saddle
            |the heliograph|the compass|the spirit level|the lead mule|the big tent|the sketch map""",
        "things": """the ranging rods|the contour lines|the mules|the cairns|the tent pegs|the angle readings
            |the flags|the map sheets
            |the boot nails|the water skins""",
        "stuff": "tracing linen|lamp oil|dried beef|chalk|twine|canvas|chain grease|India ink",
        "role": "surveyor|chainman|guide|draughtsman|mule driver|camp cook|botanist|expedition doctor|interpreter",
        "crowd": "the chainmen|the porters|the mule drivers|the shepherds|the draughtsmen|four flag boys",
        "act": """(level|mount|shade) (the theodolite|the plane table) (on the cairn|above the ravine|against the wind)
            (measure|check|walk) (the base line|a third angle|the river bank) (with the steel chain
            |before the haze rose|)
            (ink|plot|redraw) (the contour lines|the coast sheet|a doubtful ridge) (by lamplight|from the field book|)
            (load|water|unsaddle) (the mules|the pack train) (beside the ford|in driving sleet|before breakfast)
            (build|find|climb) (a cairn|the marked boulder) (on the false summit|beyond the pass|)
            (flash|read|repeat) (the heliograph|the evening signals|a bearing) (across the valley|to the western party|)
            (name|cross|skirt) (the nameless lake|a bog|the gorge) (on the ninth morning|without a guide|)""",
        "trouble": """the (angles|readings|two base lines) (would not close|disagreed|differed by a yard)
            (mist|haze|snow) had (hidden|covered) (the far stations|every cairn|the summit flag)
            a mule had (fallen|bolted|rolled) with (the barometer|the flour|a month of field notes)
            the (shepherds|villagers) had (moved|burned|carried off) (the flags|the ranging rods)
            the old map placed (the lake|the pass|a whole village) (on the wrong bank|two valleys to the south)
            the river had (risen|cut a new bed|swept away the ford) (in the night|)""",
        "sense": """the jingle of harness|the smell of wet canvas|the flap of the big tent|a whiff of peat smoke
            |the bray of mules
            |the hum of wind in the wires""",
        "matter": """the height of the pass|the error in the chain|the names of the lakes|the porters' pay
            |the winter quarters
            |the old map|the order of march|the flour""",
    },
    "archive": {
        "work": "the (cataloguing|moving|drying) of the (town archive|parish papers|flooded archive)",
        "loc": """the reading room|the map cabinet|the bindery|the muniment tower|the card catalogue
            |the basement stacks|the loading door
            |the restorer's bench|the sorting table|the fire door|the north stacks""",
        "thing": """the charter roll|the card index|the book press|the dehumidifier|the parish register|the inventory
            |the trolley
            |the microscope|the town seal|the atlas|the step stool|the paste brush|the blotter""",
        "things": """the letter books|the tithe maps|the loose folios|the bindings|the glass plates|the index cards
            |the shelf labels
            |the burial rolls|the wage books|the boxes of minutes""",
        "stuff": "blotting paper|wheat paste|vellum|linen tape|calfskin|cotton wool|Japanese tissue|acid free board",
        "role": """archivist|bookbinder|paper restorer|cataloguer|porter|local historian|photographer|town clerk
            |apprentice binder""",
        "crowd": "the readers|the cataloguers|the volunteers|the town councillors|the porters|a party of students",
        "act": """(catalogue|describe|date) (the wage books|a bundle of letters|the glass plates) (on fresh cards
            |box by box|)
            (press|dry|interleave) (the wet folios|the burial rolls|a swollen volume) (between blotters|over a week|)
            (mend|back|flatten) (a torn charter|the tithe maps|the margins) (with Japanese tissue|under weights|)
            (carry|wheel|hide) (the atlas|forty boxes of minutes|the town seal) (up the tower stair|to the bindery|)
            (decipher|transcribe|quote) (a faded petition|the oldest burial roll|the miller's will) (under the lamp
            |word by word|)
            (dust|shelve|misplace) (the letter books|the parish register) (in the north stacks|behind the atlas|)
            (sew|rebind|trim) (the inventory|a broken almanac) (in calfskin|on new cords|)""",
        "trouble": """(mould|damp|silverfish) had (reached|ruined|softened) (the burial rolls|the lower shelves
            |the calfskin)
            the (inventory|card index) (listed|described) (a charter nobody had seen|two boxes too many)
            a pipe had (burst|wept) (above the stacks|behind the map cabinet)
            some reader had (cut|torn) (a seal from the roll|the finest map from its guard)
            the council meant to (sell|pulp|move) (the duplicate volumes|half the collection)
            the (ink|glue) had begun to (flake|eat the paper|turn brown)""",
        "sense": """the smell of old leather|the squeak of the trolley|a dry rustle of paper|the hum of lamps
            |the tick of the radiator|a breath of mould""",
        "matter": """the missing charter|the council's budget|the date of the seal|the flood|the order of the shelves
            |the historian's theory|the reading room hours|the fading ink""",
    },
    "choir": {
        "work": "the (spring concert|festival|new season) of the (town choir|chapel choir|miners' choir)",
        "loc": """the choir stalls|the vestry|the organ loft|the rehearsal hall|the tea urn|the piano
            |the chapel porch|the back row
            |the music cupboard|the conductor's stand|the side aisle""",
        "thing": """the organ|the tuning fork|the hymnal|the metronome|the old upright piano|the score|the baton
            |the pitch pipe
            |the programme|the descant|the slow movement|the final chorus""",
        "things": """the sopranos' parts|the psalm sheets|the organ pipes|the folding chairs|the robes|the bass parts
            |the candles
            |the anthem copies|the pencil marks|the music stands""",
        "stuff": "sheet music|breath|candle wax|honey|applause|practice|throat lozenges",
        "role": "choirmaster|organist|first alto|bass soloist|page turner|verger|soprano|accompanist|chapel warden",
        "crowd": "the tenors|the altos|the trebles|the basses|the visiting singers|the women in the front row",
        "act": """(sing|hum|practise) (the descant|the slow movement|the second verse) (without the organ
            |at half speed|from memory)
            (tune|mend|pump) (the organ|the reed pipes|the harmonium) (between services|with numb fingers|)
            (mark|copy|collect) (the breathing places|the anthem copies|every wrong note) (in pencil
            |after the rehearsal|)
            (conduct|halt|slow) (the fugue|the tenors|the opening chorus) (with a rolled newspaper|at bar nine|)
            (transpose|shorten|restore) (the motet|an old carol) (for the altos|into a kinder pitch|)
            (rehearse|coax|praise) (the trebles|the second basses) (in the cold vestry|until supper|)
            (fold|stack|unfold) (the chairs|the robes) (along the aisle|behind the curtain|)""",
        "trouble": """the (tenors|second sopranos|basses) (came in early|went flat|lost the beat) (in every rehearsal
            |at the same bar|)
            the (organ|old piano) had (lost|swallowed) (a pedal|its lowest octave|two stops)
            the soloist had (caught a cold|quarrelled with the organist|married and moved away)
            the chapel roof (dripped on|let rain into) (the altos|the organ loft)
            the (copies|robes) had (gone astray|come in the wrong size|been lent to another choir)
            nobody (under fifty|but the verger) (could read the old notation|remembered the tune)""",
        "sense": """the wheeze of the bellows|the smell of candle smoke|a scatter of coughs|the echo of the last chord
            |the patter of rain on slates|a low humming""",
        "matter": """the choice of anthem|the tenors|the festival judges|the organ fund|the tempo of the fugue
            |the soloist's fee
            |the Christmas carols|the acoustics""",
    },
    "ferry": {
        "work": "the (ferry line|night ferry|chain ferry) across the (sound|estuary|lake)",
        "loc": """the landing stage|the ticket window|the engine room|the wheelhouse|the far bank|the waiting shed
            |the mail locker
            |the turning basin|the car ramp|the signal hut|the sandbar""",
        "thing": """the ferry|the paddle box|the bow ramp|the boiler|the timetable|the ship's bell|the lifebelt
            |the telegraph
            |the rudder|the gangplank|the fog horn|the ticket punch|the guide cable""",
        "things": """the lifejackets|the passengers' trunks|the mail sacks|the deck benches|the hencoops
            |the coal bunkers|the signal flags
            |the return tickets|the rowlocks|the milk churns""",
        "stuff": "coal|fresh paint|steam|fodder|marine glue|lamp oil|mail",
        "role": """ferry captain|engineer|ticket clerk|deckhand|stoker|postmistress|helmsman|company inspector
            |widow from the far bank""",
        "crowd": "the passengers|the stokers|the market women|the deckhands|a wedding party|the cattle dealers",
        "act": """(steer|back|nose) (the ferry|the launch|the old paddle boat) (round the sandbar|through the fog
            |off the landing)
            (stoke|bank|rake) (the boiler|the furnace) (with wet coal|before the last crossing|)
            (sell|punch|refuse) (the tickets|a return fare|the soldier's pass) (at the window|without a smile|)
            (load|lash|unload) (the milk churns|a nervous bull|the mail sacks) (on the foredeck|in the rain|)
            (paint|scrape|inspect) (the hull|the funnel|the paddle box) (during the slack season|with a wire brush|)
            (sound|ring|answer) (the fog horn|the ship's bell) (three times|toward the far bank|)
            (rewrite|copy|ignore) (the timetable|the company's orders) (to suit the tides|every quarter|)""",
        "trouble": """the (boiler|guide cable|rudder chain) had (leaked|frayed|jammed) (in midstream|since the autumn|)
            (fog|ice|a spring flood) had (closed|blocked) (the crossing|the channel|both landings)
            the company wanted to (close|sell|halve) (the evening service|the line)
            a (bridge|rival launch|motor road) was (planned|promised|opening) (upstream|within the year)
            a (trunk|crate|calf) had gone (overboard|astray) between (the landings|noon and dusk)
            the (passengers|market women) had (stopped paying|begun to complain|counted the lifejackets)""",
        "sense": """the beat of the paddles|the moan of the horn|a smell of coal smoke and cattle|the hiss of steam
            |the bump of the gangplank|the chatter of travellers""",
        "matter": """the fares|the planned bridge|the winter timetable|the age of the boiler|the mail contract
            |the sandbar
            |the company's letter|the lost trunk""",
    },
    "glass": {
        "work": "the (glass works|rebuilding of the glass furnace|great order of window glass)",
        "loc": """the furnace mouth|the annealing oven|the cutting bench|the sand bins|the cone|the batch room
            |the packing straw
            |the mould store|the cooling rack|the engraver's window|the glory hole""",
        "thing": """the furnace|the blowpipe|the marver|the great carboy|the chandelier|the pontil rod
            |the annealing kiln|the mould
            |the rose window|the crucible|the polishing wheel|the goblet|the cullet bin""",
        "things": """the goblets|the window panes|the moulds|the bottles|the crucibles|the prisms|the shears
            |the coloured rods
            |the paperweights|the lamp chimneys""",
        "stuff": "sand|potash|cullet|cobalt|molten glass|beechwood|red lead|gold leaf",
        "role": """gaffer|glass blower|engraver|batch mixer|furnace man|apprentice gatherer|pattern maker
            |dealer in mirrors|packer""",
        "crowd": "the blowers|the gatherers|the stokers|the packers|the cutters|the night shift",
        "act": """(blow|spin|shape) (a goblet|the great carboy|crown glass) (on the marver|in one breath|without a flaw)
            (gather|mix|melt) (the batch|cobalt and sand|a red glass) (before dawn|in the fourth crucible|)
            (engrave|polish|etch) (the goblets|a border of vines|the mirror's edge) (on the wheel|for the bishop|)
            (stoke|rebuild|cool) (the furnace|the arch|the siege bench) (with beechwood|brick by brick|)
            (pack|count|reject) (the lamp chimneys|the window panes|the cloudy bottles) (in straw|against the light|)
            (open|carve|oil) (the mould|a pearwood form) (between gathers|with a hooked iron|)
            (snap|shear|fire) (the rim|the neck of the decanter) (clean|at arm's length|)""",
        "trouble": """the glass came out (green|full of seeds|clouded) (however they mixed it|three days running|)
            the (crucible|furnace arch|chimney) had (cracked|slumped|burned through) (overnight|at full heat|)
            the (merchant|cathedral) had (cancelled|doubled|returned) (the order for panes|a cartload of goblets)
            (the potash|the white sand) had been (cut with ash|soaked on the wharf|sold twice)
            a (blower|gatherer) had (burned his hand|left for a rival house|taken the red recipe with him)
            the annealing oven (cooled too fast|had run cold) and (half the batch|the chandelier) lay in splinters""",
        "sense": """the roar of the furnace|the ping of cooling glass|a dry heat|the smell of scorched pearwood
            |the grinding of the wheel|the tinkle of cullet""",
        "matter": """the recipe for red|the order from the cathedral|the wear of the crucibles|the cost of beechwood
            |the rival house|the bubbles in the panes|the apprentices""",
    },
    "lock": {
        "work": "the (draining|digging|reopening) of the (summit canal|flight of locks|old canal)",
        "loc": """the lock cottage|the towpath|the upper pound|the tunnel mouth|the stop planks|the puddling yard
            |the aqueduct
            |the overflow weir|the stable|the lower gates|the toll hut|the winding hole""",
        "thing": """the narrowboat|the balance beam|the lock gate|the windlass|the towrope|the coal barge
            |the puddle trench|the paddle gear
            |the steam pump|the mud hopper|the iron bridge|the toll board""",
        "things": """the lower gates|the bargees' horses|the paddles|the coping stones|the mile posts
            |the clay barrows|the boat poles
            |the swans|the moorings|the bricks of the tunnel""",
        "stuff": "puddle clay|elm board|blue brick|hay|quicklime|towline|grease",
        "role": """keeper of the lock|bargee|canal engineer|boat wife|navvy|toll collector|brickmaker|farrier
            |canal director""",
        "crowd": "the bargees|the navvies|the boat children|the horse boys|the brickmakers|the anglers",
        "act": """(drain|flood|fill) (the chamber|the upper pound|the side pond) (overnight|for the inspection
            |inch by inch)
            (leg|pole|tow) (the narrowboat|a load of coal) (through the tunnel|up the flight|)
            (rehang|tar|wedge) (the lower gates|the heel post|a swollen paddle) (with fresh elm|from a raft|)
            (tread|ram|barrow) (the puddle clay|wet marl) (into the trench|behind the brickwork|)
            (shoe|lead|rest) (the towing horse|a blind mare) (at the stable|along the towpath|)
            (gauge|stop|wave through) (the coal boats|a hay barge) (under the iron bridge|by lantern|)
            (lay|point|tap) (the coping stones|a course of blue brick) (below the cill|in falling rain|)""",
        "trouble": """the (upper pound|summit reservoir) had (leaked|run dry|fallen a foot) (since Sunday
            |through a rabbit hole|)
            the (gates|paddles) had (jammed|warped|rotted) (at the heel|on the coldest morning|)
            the tunnel (roof|lining) had (dropped|bulged) (onto the towline|behind the third shaft)
            the railway had (bought|undercut|copied) (the coal trade|the toll)
            a (horse|coal boat) had (gone into the weir|sunk in the lock|blocked the bridge hole)
            the farmers (had broken the bank|were drawing water) (by night|for their meadows)""",
        "sense": """the rush of the paddles|the smell of wet clay|the plod of the horse|a glimmer under the bridge
            |the clack of the windlass|the drip of the tunnel""",
        "matter": """the water in the summit pound|the railway|the tolls on coal|the leak below the cill
            |the bargees' quarrels
            |the tunnel lining|the horse|the directors' visit""",
    },
    "quarry": {
        "work": "the (reopening|working|closing) of the (slate quarry|marble quarry|upper gallery)",
        "loc": """the upper gallery|the incline|the dressing sheds|the spoil tip|the powder house|the crane
            |the blondin tower|the smithy
            |the flooded pit|the weighbridge|the ganger's hut|the tramway""",
        "thing": """the crane|the black powder|the drill steel|the slate saw|the tram wagon|the blasting horn
            |the great block
            |the winding drum|the sledge|the overhang|the compressor|the splitting chisel""",
        "things": """the slates|the feathers and wedges|the tram rails|the fuses|the jumpers|the marble slabs
            |the crowbars
            |the waste blocks|the wagon wheels|the drill holes""",
        "stuff": "black powder|slate|cordage|sawn marble|rail iron|water|candle ends",
        "role": "quarryman|powder monger|slate splitter|crane driver|ganger|blacksmith|geologist|tally clerk|brakesman",
        "crowd": "the rockmen|the splitters|the tram boys|the rubbish gang|the crane crew|the older quarrymen",
        "act": """(split|dress|stack) (the slates|a block of blue vein|the best heavies) (on the knee|by the gross
            |in the lean sheds)
            (drill|tamp|fire) (the hole|a double charge|the last round) (above the gallery|at the sound of the horn|)
            (swing|lower|sling) (the great block|a marble slab) (onto the wagon|clear of the ledge|)
            (pry|bar|sledge) (the loose rock|the overhang) (from a rope|before the shift|)
            (sharpen|temper|forge) (the drill steel|a set of chisels) (in the smithy|at cherry heat|)
            (brake|couple|tip) (the wagons|a run of waste) (down the incline|over the edge|)
            (survey|pump|timber) (the flooded pit|the lower level) (with borrowed engines|plank by plank|)""",
        "trouble": """the (vein|good rock) had (pinched out|turned brittle|dipped under the road)
            the (overhang|north face|spoil tip) had (shifted|begun to creep|come down) (after the rain|in the thaw|)
            a charge had (hung fire|misfired|gone off early) (on the upper gallery|)
            the (roofers|architects) now (asked for tile|bought foreign slate|wanted thinner stuff)
            the winding drum had (seized|lost a tooth) (halfway up the incline|with a full load)
            the price per (gross|ton) had (fallen|been cut) (by a third|twice since spring)""",
        "sense": """the ring of hammers|the dust of the saws|the blast of the horn|a grey glitter|the squeal of brakes
            |the tang of burnt powder""",
        "matter": """the bargain price|the blue vein|the state of the overhang|the powder|the foreign slate
            |the doctor's fund
            |the tramway|the dust""",
    },
    "lighthouse": {
        "work": "the (relighting|manning|automation) of the (lighthouse|island light|reef light)",
        "loc": """the lantern room|the gallery rail|the oil store|the landing rock|the spiral stair
            |the keeper's kitchen|the weather side
            |the seal skerry|the boat derrick|the walled garden|the fog station""",
        "thing": """the lens|the clockwork|the lamp|the mercury bath|the signal rocket|the derrick|the flagstaff
            |the barometer
            |the relief boat|the watch bell|the wick trimmer|the rain cistern|the storm shutter""",
        "things": """the prisms|the brass fittings|the oil cans|the storm panes|the spare mantles|the night watches
            |the cormorants
            |the hens|the weights|the charts""",
        "stuff": "paraffin|brass polish|chamois|flour|tinned milk|putty|rope",
        "role": """principal keeper|second keeper|relief boatman|lamp maker|coast inspector|keeper's wife
            |telegraphist|cook|supply master""",
        "crowd": "the keepers|the boat crew|the shore gang|the visitors|the inspectors|the fishermen",
        "act": """(wind|oil|time) (the clockwork|the great lens) (every third hour|in the middle watch|)
            (polish|wipe|count) (the prisms|the storm panes|the brass) (with chamois|by habit|)
            (trim|light|shade) (the lamp|a fresh mantle) (at sunset|with steady hands|)
            (hoist|land|row) (the oil cans|a month of stores|the inspector) (over the rock|between two swells|)
            (write|enter|check) (the weather log|the passing ships) (in a round hand|at midnight|)
            (dig|wall|manure) (the potato bed|a patch of cabbages) (behind the oil store|with seaweed|)
            (sound|mend|silence) (the fog signal|the watch bell) (for nineteen hours|in thick weather|)""",
        "trouble": """the (relief boat|supply boat) was (three weeks late|unable to land|seen to turn back)
            the (lens|clockwork|lamp) had (stuck|slowed|smoked) (twice in the night|during the gale|)
            the sea had (taken|broken) (the landing steps|the derrick|the garden wall)
            the (flour|paraffin|cistern) was (running low|fouled with salt|nearly gone)
            the two keepers had (stopped speaking|divided the kitchen|quarrelled over a hen)
            a ship had (missed the light|answered no signal|struck the outer reef)""",
        "sense": """the tick of the clockwork|the boom of the swell|a smell of paraffin|the wail of the fog signal
            |the crying of birds against the glass|the sweep of the beam""",
        "matter": """the relief|the colour of the beam|the board's economies|the ship on the reef|the cistern|the hens
            |the long watches|the wireless""",
    },
    "printing": {
        "work": "the (printing|setting|second edition) of the (almanac|county newspaper|dictionary)",
        "loc": """the composing room|the type cases|the proof press|the paper store|the imposing stone
            |the counting room|the drying lines
            |the street door|the ink bench|the foundry corner|the reader's desk""",
        "thing": """the press|the galley|the composing stick|the almanac|the front page|the ink roller|the title page
            |the chase
            |the proof|the woodcut|the paper cutter|the tympan|the folding machine""",
        "things": """the italics|the type cases|the page proofs|the woodcuts|the subscribers|the broadsheets
            |the misprints|the lead slugs
            |the footnotes|the posters""",
        "stuff": "newsprint|lampblack|type metal|linseed oil|laid paper|lye|gossip",
        "role": """compositor|master printer|proof reader|pressman|editor|type founder|wood engraver|paper merchant
            |newsboy""",
        "crowd": "the compositors|the newsboys|the pressmen|the subscribers|the apprentices|the folding girls",
        "act": """(set|lock|distribute) (the front page|the italics|a column of tides) (by hand|before the mail coach
            |in eight point)
            (ink|roll|clean) (the forme|the worn woodcut) (with lampblack|between pulls|)
            (pull|read|correct) (the proofs|the final sheet|a page of errata) (against copy|at the stone
            |with a wet thumb)
            (fold|bundle|deliver) (the broadsheets|the almanac) (by the ream|through the side streets|)
            (cast|sort|melt) (new type|the lead slugs|a tray of capitals) (in the foundry corner|)
            (engrave|retouch|crop) (the masthead|a view of the town) (on boxwood|for the autumn number|)
            (cut|damp|store) (the laid paper|six reams of newsprint) (beneath the stairs|overnight|)""",
        "trouble": """a (line|whole paragraph|name) had been (dropped|printed upside down|set twice)
            the (paper merchant|mill) had (raised his price|sent damp reams|asked for cash)
            the (press|folding machine) had (thrown a belt|sheared a pin|begun to slur)
            the (mayor|bishop|brewer) had (threatened to sue|stopped his advertisement|denied the story)
            the (apprentice|night man) had (spilled the case|pied three columns) (an hour before press|)
            the editor's (copy|verses) came (late|in pencil|without an ending)""",
        "sense": """the clatter of the press|the smell of ink|a whisper of paper|the click of type
            |the thump of the mallet
            |the fumes of the metal pot""",
        "matter": """the spelling of the title|the mayor's speech|the errata|the circulation|the rival paper
            |the widths of the columns
            |the tide tables|the overtime""",
    },
    "theatre": {
        "work": "the (new production|winter season|rescue) of the (playhouse|travelling theatre|opera house)",
        "loc": """the wings|the prompt corner|the scene dock|the green room|the fly gallery|the box office
            |the orchestra pit|the stage door
            |the wardrobe|the upper circle|the paint frame""",
        "thing": """the curtain|the trapdoor|the prompt book|the thunder sheet|the leading part|the painted forest
            |the wind machine
            |the footlight|the chandelier|the third act|the wig|the playbill|the balcony""",
        "things": """the footlights|the painted flats|the costumes|the playbills|the wigs|the stage weights
            |the swords|the notices
            |the false beards|the gallery seats""",
        "stuff": "greasepaint|size|limelight|velvet|applause|tinsel|sawdust",
        "role": """stage manager|leading lady|prompter|scene painter|carpenter|wardrobe mistress|playwright
            |understudy|critic""",
        "crowd": "the chorus|the stagehands|the gallery crowd|the dancers|the understudies|the musicians",
        "act": """(paint|hang|fireproof) (the forest cloth|the palace flats|a moonlit sky) (on the frame
            |from the flies|in two days)
            (rehearse|cut|rewrite) (the third act|the quarrel scene|the final speech) (without props|over cold tea|)
            (stitch|dye|borrow) (the costumes|a velvet cloak|the queen's train) (by gaslight|from the opera|)
            (prompt|mimic|replace) (the leading lady|an elderly king) (from the corner|at an hour's notice|)
            (raise|drop|patch) (the curtain|the gauze) (too soon|on a bare stage|)
            (shake|crank|muffle) (the thunder sheet|the wind machine) (during the storm|)
            (sell|paper|empty) (the gallery|the house) (for the benefit night|)""",
        "trouble": """the (leading man|understudy|conductor) had (lost his voice|walked out|been arrested for debt)
            the (trapdoor|curtain|revolve) had (stuck|fallen|jammed) (in the love scene|at the dress rehearsal|)
            the critics had (left early|praised the scenery|confused the two sisters)
            the landlord had (changed the locks|seized the costumes|let the hall for a dance)
            the third act (ran an hour too long|made no sense|wanted an ending)
            the takings (would not cover|barely met) (the gas|the band|the week's wages)""",
        "sense": """the smell of greasepaint|a tap of hammers|the sigh of the curtain|the tuning of fiddles
            |a hiss of gas|the laughter from the gallery""",
        "matter": """the ending of the play|the wigs|the critics|the rent|the leading lady's temper|the trapdoor
            |the matinee|the cut lines""",
    },
    "railway": {
        "work": "the (branch line|narrow gauge railway|building of the mountain railway)",
        "loc": """the engine shed|the level crossing|the signal box|the water tower|the viaduct|the platform clock
            |the goods yard
            |the cutting|the lamp room|the turntable|the summit halt|the ballast pit""",
        "thing": """the engine|the turntable|the signal lever|the guard's van|the snow plough|the tender
            |the station clock|the points
            |the brake handle|the footplate|the telegraph|the pump trolley|the whistle""",
        "things": """the sleepers|the fishplates|the signal lamps|the tank wagons|the parcels|the rails|the couplings
            |the platelayers' bars
            |the hanging baskets|the goods trucks""",
        "stuff": "ballast|coal|creosote|steam oil|timber|cinders|freight",
        "role": """stationmaster|signalman|engine driver|fireman|platelayer|guard|line inspector|crossing woman
            |goods clerk""",
        "crowd": "the platelayers|the cleaners|the passengers|the navvies|the goods porters|the railway wives",
        "act": """(drive|fire|coax) (the engine|the morning goods|the old tank engine) (over the viaduct|up the bank
            |with leaking tubes)
            (pack|lift|renew) (the sleepers|the curve|a mile of track) (by hand|between trains|)
            (pull|oil|repaint) (the points|the distant signal|every lever) (from the box|on a frosty morning|)
            (shunt|uncouple|chain) (the tank wagons|a cattle truck|the guard's van) (into the siding|after the express|)
            (wave|ring|hold) (the down train|the excursion) (through|at the crossing|)
            (clear|dig|plough) (the drifts|a fall of rock) (from the cutting|with shovels|)
            (wash|stoke|bank) (the firebox|the boiler) (before daylight|in the shed|)""",
        "trouble": """the (embankment|viaduct|cutting) had (slipped|settled|begun to weep) (in the wet season
            |under the goods|)
            the (down train|morning goods|excursion) was (an hour late|stuck at the summit|short of steam)
            (snow|a landslip|a stray bull) had (stopped|stranded) (the mail|two trains)
            the company (proposed to close|had mortgaged|refused to mend) (the upper section|the line)
            the signal wire had (snapped|frozen|been stolen) (below the viaduct|)
            a (coupling|tyre|spring) had (broken|worked loose) (on the long bank|outside the station)""",
        "sense": """the bark of the exhaust|the smell of creosote|the ring of a hammer on rail|the clunk of the points
            |a plume of steam|the rattle of milk churns""",
        "matter": """the gradient|the late train|the shareholders|the curve below the viaduct|the price of coal|the snow
            |the station garden|the inspector's report""",
    },
    "observatory": {
        "work": """the (comet watch|star catalogue|great refractor) at the (observatory|hill observatory
            |university dome)""",
        "loc": """the dome|the transit room|the computing room|the observing chair|the clock stair|the instrument shop
            |the parapet|the plate room|the meridian slit|the mirror pit|the frosty terrace""",
        "thing": """the refractor|the mirror|the shutter|the sidereal clock|the eyepiece|the plate holder
            |the driving clock|the star atlas
            |the micrometer|the dome motor|the comet|the spectroscope|the logbook""",
        "things": """the photographic plates|the star charts|the lenses|the transit times|the counterweights
            |the reductions
            |the variable stars|the gear teeth|the sunspots|the columns of figures""",
        "stuff": "silver nitrate|clock oil|rouge|darkness|spider thread|lens paper|logarithms",
        "role": """astronomer|night assistant|instrument maker|computer of orbits|plate developer|professor
            |clock mender|caretaker|student""",
        "crowd": """the assistants|the computers|the students|the visiting astronomers|the townspeople
            |the night watchers""",
        "act": """(observe|photograph|sketch) (the comet|a faint nebula|the double star) (through thin cloud
            |for nine nights|near the horizon)
            (grind|silver|polish) (the mirror|a test plate) (with rouge|in the instrument shop|)
            (reduce|check|recompute) (the transit times|an orbit|the columns of figures) (by logarithms
            |to the sixth place|twice)
            (open|turn|free) (the dome|the shutter) (by hand crank|against the wind|)
            (expose|develop|compare) (the plates|two fields of stars) (in red light|for the catalogue|)
            (rate|wind|regulate) (the sidereal clock|the chronometer) (before each watch|by the noon star|)
            (show|explain|deny) (the rings|the sunspots) (to the townspeople|)""",
        "trouble": """(cloud|dust|the city's glare) had (hidden|spoiled) (the comet|every night that month|the eclipse)
            the (clock|drive|dome motor) (gained a second|stalled|slipped) (each hour|at the crucial exposure|)
            the (plates|mirror) had (fogged|tarnished|cracked in transit)
            the (computed|published) orbit (missed by a degree|contradicted the older one|would not fit)
            another observatory had (announced the comet|claimed the nebula|finished its catalogue) first
            the university (begrudged|had halved) (the heating|the assistants' pay|the grant)""",
        "sense": """the groan of the dome|the tick of the sidereal clock|a smell of clock oil|the cold of the terrace
            |the scratch of a pencil|the hum of the drive""",
        "matter": """the comet's return|the error of the clock|the priority of discovery|the mirror|the city lights
            |the catalogue|the long frost|the professor's theory""",
    },
    "hospital": {
        "work": "the (fever ward|cottage hospital|dispensary) in the (hill town|mining district|old convent)",
        "loc": """the dispensary|the fever ward|the linen room|the night desk|the sun porch|the operating room
            |the kitchen hatch
            |the ambulance yard|the chapel|the long corridor|the herb border""",
        "thing": """the stretcher|the steriliser|the temperature chart|the medicine trolley|the iron lung
            |the ward clock|the bell rope
            |the microscope|the lamp|the invalid chair|the fever hospital|the weekly report|the splint""",
        "things": """the thermometers|the blankets|the bandages|the night rounds|the cots|the case notes
            |the clean sheets|the glass syringes
            |the crutches|the visitors' chairs""",
        "stuff": "quinine|carbolic|gauze|broth|linen|iodine|ice",
        "role": "matron|surgeon|night nurse|dispenser|stretcher bearer|laundress|young doctor|chaplain|cook",
        "crowd": "the nurses|the convalescents|the visitors|the probationers|the stretcher bearers|the miners' wives",
        "act": """(boil|count|roll) (the bandages|the syringes|a hundred swabs) (before rounds|in the linen room|)
            (dress|examine|clean) (the wound|a scalded arm|the miner's hand) (with carbolic|under a poor lamp|)
            (chart|lower|watch) (the fever|the child's temperature) (through the night|with ice|)
            (carry|wheel|settle) (the patient|an old shepherd|the new arrivals) (to the sun porch|past the screens|)
            (dispense|measure|ration) (the quinine|the last of the iodine) (by the drop|at the hatch|)
            (scold|feed|comfort) (the convalescents|a homesick boy) (with broth|in a whisper|)
            (air|scrub|whitewash) (the ward|the long corridor) (from end to end|on Saturdays|)""",
        "trouble": """the (fever|influenza|typhoid) had (returned|reached the school|spread to the lower town)
            the (quinine|clean linen|ice) had (run out|not arrived|been sent elsewhere)
            the (boiler|steriliser|lift) had (failed|burst a pipe) (in the middle of rounds|)
            the (well|drain) behind the laundry was (fouled|cracked)
            there were (more patients than beds|cots in the corridor|only two nurses for the ward)
            the trustees (questioned|would not meet) (the butcher's bill|the cost of coal)""",
        "sense": """the smell of carbolic|a soft tread of rubber soles|the rattle of the trolley
            |the coughing behind the screens
            |the clink of glass|the steam of the laundry""",
        "matter": """the fever|the night roster|the trustees|the well water|the surgeon's hands|the new wing|the diet
            |the price of ice""",
    },
    "vineyard": {
        "work": "the (vintage|replanting|terracing) of the (south slope|monastery vineyard|upper vineyard)",
        "loc": """the press house|the terrace wall|the cellar steps|the fermenting vats|the cooper's yard
            |the chapel row|the tasting table
            |the upper terraces|the cart track|the well head|the drying loft""",
        "thing": """the press|the great tun|the cellar candle|the must|the hydrometer|the oldest vine|the mule cart
            |the bung
            |the tasting cup|the cistern|the treading trough|the cork cutter|the first vintage""",
        "things": """the grapes|the casks|the hoops|the terraces|the cuttings|the bottles|the stakes|the vine leaves
            |the pruning hooks
            |the muscat rows""",
        "stuff": "sulphur|must|osier|cork|chestnut poles|copper salts|yeast",
        "role": "vintner|cellarer|cooper|vine dresser|wine broker|grape picker|mule driver|taster|abbot's steward",
        "crowd": "the pickers|the coopers|the treaders|the brokers|the monks|the cellarmen",
        "act": """(pick|tread|crush) (the muscat|the late grapes|a cartload of black grapes) (in the cool hours
            |barefoot|to a slow song)
            (stake|prune|layer) (the young vines|the chapel row|forty cuttings) (above the wall|with osier ties|)
            (rack|fine|taste) (the wine|the pressings|the old reserve) (by candle|off its lees|from a silver cup)
            (dust|spray|smoke) (the leaves|the lower terraces) (with sulphur|against mildew|)
            (hoop|char|scald) (the casks|the great tun) (in the yard|before vintage|)
            (rebuild|climb|drain) (the terrace wall|the steep rows) (stone upon stone|after the storm|)
            (price|ship|bury) (the first vintage|six hogsheads|the sour barrel) (with the broker|at a loss|)""",
        "trouble": """(mildew|hail|wasps) had (struck|stripped|spoiled) (the muscat rows|the south slope
            |every second bunch)
            the (must|new wine) would not (ferment|clear|stop working)
            the terrace wall had (bulged|fallen) (across the cart track|onto the young vines)
            a cask had (wept|turned to vinegar|burst a hoop) (in the far cellar|)
            the broker (offered half|found fault with the colour|had failed in business)
            the (root louse|wild boar) was (in the lower vines|back on the slope)""",
        "sense": """the smell of must|the buzz of wasps|the knock of mallets on staves|a chill from the cellar
            |the song of the treaders|the drip of the press""",
        "matter": """the sugar in the grapes|the broker's offer|the hail|the age of the vines|the abbot's tithe
            |the barrels
            |the date of picking|the vinegar cask""",
    },
    "bridge": {
        "work": "the (building|strengthening|painting) of the (suspension bridge|stone bridge|swing bridge)",
        "loc": """the east pier|the anchorage|the site hut|the caisson|the toll house|the approach road
            |the rivet forge|the midspan
            |the cable saddle|the old ford|the riverside tavern""",
        "thing": """the caisson|the main cable|the crown stone|the falsework|the derrick|the travelling crane
            |the swing span|the rivet hammer
            |the drawing|the air pump|the centering|the handrail|the parapet""",
        "things": """the rivets|the girders|the hangers|the voussoirs|the expansion joints|the cofferdams
            |the paint pots|the stay ropes
            |the deck planks|the bolts""",
        "stuff": "steel wire|cement|red lead paint|rivets|plank|sandbags|ashlar",
        "role": "bridge engineer|rigger|riveter|mason|diver|resident inspector|painter|toll keeper|foreman",
        "crowd": "the riveters|the riggers|the masons|the painters|the toll keepers|the caisson men",
        "act": """(spin|wrap|tension) (the main cable|the stay ropes|a hanger) (above the current|strand by strand
            |in a flat calm)
            (sink|pump|ballast) (the caisson|the cofferdam) (to bedrock|through clay|)
            (heat|throw|drive) (the rivets|a cherry red bolt) (across the gap|into the girder|)
            (swing|bolt|float) (the last girder|a deck section) (into place|off a barge|)
            (test|load|calculate) (the arch|the swing span|the new deck) (with wagons of stone|to the last ton|)
            (strike|carve|shore) (the centering|the falsework) (before the thaw|wedge by wedge|)
            (paint|scrape|examine) (the handrail|the upper chords) (from a cradle|in all weathers|)""",
        "trouble": """the (east pier|arch|anchorage) had (settled|tilted|opened a joint) (by an inch|since the flood|)
            the (wire|iron|cement) had (failed its test|come from a cheaper works|frozen in the store)
            the river had (scoured|undermined|topped) (the cofferdam|the footing|the temporary road)
            a (barge|timber raft|drifting elm) had (struck|fouled) (the falsework|the east pier)
            the (ferrymen|toll company) had (petitioned against|set watchmen on) the (bridge|approach road)
            the drawings (disagreed|left out the expansion joint|were a foot short)""",
        "sense": """the hammering of rivets|the hum of the cables|a shower of sparks|the smell of red lead
            |the pant of the air pump
            |the river's mutter""",
        "matter": """the span|the bedrock|the tolls|the weight of the deck|the rust|the flood level|the opening day
            |the riggers' strike""",
    },
    "bells": {
        "work": "the (casting|hanging|tuning) of the (great bell|new peal|cathedral bells)",
        "loc": """the casting pit|the bell tower|the tuning shop|the ringing chamber|the clay store|the furnace door
            |the louvres
            |the cathedral close|the frame yard|the rope walk|the weighing beam""",
        "thing": """the great bell|the mould|the clapper|the tenor bell|the bell frame|the headstock|the tuning lathe
            |the loam core
            |the treble|the tower stair|the pulley block|the inscription|the yoke""",
        "things": """the bell ropes|the moulds|the trunnions|the oak beams|the changes|the handbells|the clappers
            |the ingots
            |the sallies|the tower steps""",
        "stuff": "tin|copper|loam|horse dung|goat hair|bronze|grease",
        "role": "bell founder|tower captain|furnace man|tuner|carpenter|sexton|canon|rope maker|apprentice ringer",
        "crowd": "the ringers|the founders|the canons|the choirboys|the carters|the tower captains",
        "act": """(cast|pour|cool) (the great bell|the tenor|a cracked treble) (in the pit|at midnight
            |without a blowhole)
            (sweep|dry|bury) (the mould|the loam core) (with a strickle board|for a fortnight|)
            (turn|file|strike) (the lip|the tenor|the inner curve) (on the lathe|until it rang true|)
            (hoist|hang|wedge) (the bell frame|the new treble) (through the trapdoor|by torchlight|)
            (ring|teach|miscount) (the changes|a half peal|the call to vespers) (on Thursdays|with six ropes|)
            (splice|stretch|replace) (the bell ropes|the sallies) (in the ringing chamber|)
            (weigh|break|melt) (the old bell|the ingots) (with sledges|for the metal|)""",
        "trouble": """the (great bell|tenor) had (cracked|sounded flat|lost its voice) (in the frost|after one peal|)
            the tower (swayed|was thought too weak|had dropped a corbel)
            the mould had (taken damp|split|shifted) (before the pour|)
            the chapter (quarrelled over|would not agree on) (the inscription|the pitch|the name of the bell)
            the metal ran (short|cold|through a seam) (at the shoulder|)
            (jackdaws|pigeons) had (blocked|fouled) (the louvres|the clapper pins)""",
        "sense": """the hum of bronze|the roar of the draught|a smell of scorched hair and loam|the thump of the sallies
            |the clatter of pigeons|the long dying note""",
        "matter": """the pitch of the tenor|the inscription|the weight of metal|the tower|the ringers' beer
            |the cracked treble
            |the canons' vote|the order of changes""",
    },
    "weaving": {
        "work": "the (weaving shed|linen trade|ribbon trade) of the (lower town|valley|old quarter)",
        "loc": """the loom floor|the dye house|the bleaching green|the warping room|the wool loft|the pattern desk
            |the fulling stocks
            |the teasel barn|the finishing table|the stair head|the cloth hall""",
        "thing": """the loom|the shuttle|the warp|the dye vat|the pattern book|the spinning wheel|the bolt of twill
            |the tenter frame
            |the treadle|the carding engine|the tablecloth|the heddle|the selvedge""",
        "things": """the bobbins|the looms|the fleeces|the punched cards|the shuttles|the skeins|the tenterhooks
            |the swatches|the spindles
            |the bolts of linen""",
        "stuff": "madder|indigo|alum|flax|yarn|fuller's earth|silk",
        "role": "master weaver|dyer|spinner|wool buyer|pattern drawer|fuller|loom mender|cloth merchant|piecer",
        "crowd": "the weavers|the spinners|the dyers|the piecers|the drapers|the bleaching girls",
        "act": """(weave|finish|unpick) (the tablecloth|a bolt of twill|the damask border) (by the window
            |thread by thread|against the clock)
            (warp|thread|retie) (the loom|nine hundred ends) (in the half dark|with a reed hook|)
            (dye|rinse|wring) (the skeins|the blue wool|a batch of scarlet) (in the beck|with alum|twice over)
            (card|spin|wind) (the fleeces|the flax|a soft grey yarn) (onto bobbins|while talking|)
            (draw|punch|number) (the pattern|the cards for the lily border) (on squared paper|)
            (stretch|full|shear) (the broadcloth|the blankets) (on the tenter field|)
            (sell|measure|match) (the remnants|a length of ribbon) (in the cloth hall|by the ell|)""",
        "trouble": """the (blue|scarlet|madder) had (run|faded|dried unevenly) (in the last piece|after one washing|)
            the (loom|carding engine|shaft) had (thrown a belt|broken its heddles|shaken loose)
            (moth|damp|a leaking gutter) had (spoiled|marked) (the finished bolts|the best fleeces)
            the merchants (wanted narrower cloth|paid in goods|had gone over to cotton)
            the (weavers|piecers) (talked of a strike|were on short time|wanted a fire in the shed)
            the pattern (repeated wrongly|would not join) at (the border|the fold)""",
        "sense": """the clack of looms|the smell of wet wool|a fog of lint|the slap of the treadles
            |the reek of the indigo vat
            |the whirr of bobbins""",
        "matter": """the price of flax|the lily border|the cotton trade|the fastness of the blue|the piece rate
            |the merchants
            |the light in the shed|the moth""",
    },
    "salt": {
        "work": "the (working of the salt pans|draining of the marsh|salt harvest) (on the low coast|below the dunes|)",
        "loc": """the drying floor|the brine pit|the salt store|the sluice bank|the windpump|the dune path
            |the evaporating pans|the barge creek
            |the raking hut|the sea dyke|the heron pool""",
        "thing": """the windpump|the rake|the brine float|the salt barge|the sluice board|the boiling pan
            |the handcart|the sea dyke
            |the tide flap|the donkeyman's cart|the wooden mallet|the drying stove""",
        "things": """the crystals|the pans|the salt rakes|the baskets|the sluices|the dykes|the white heaps|the clogs
            |the avocets
            |the reed screens""",
        "stuff": "brine|salt|sailcloth|peat|clay|reed|driftwood",
        "role": "salter|pan boiler|dyke reeve|barge skipper|raker|salt merchant|windpump mender|excise man|wildfowler",
        "crowd": "the rakers|the barge crews|the salt wives|the wildfowlers|the boilers|the excise men",
        "act": """(rake|heap|skim) (the crystals|the white crust|the second pan) (toward the path|before the dew
            |with a light hand)
            (flood|drain|puddle) (the shallow pans|the upper bed) (on the spring tide|through the sluice|)
            (boil|test|strain) (the brine|the bittern) (over peat|with a floating egg|)
            (load|sail|pole) (the salt barge|a cargo of bay salt) (up the creek|on the night tide|)
            (raise|mend|sod) (the sea dyke|the breached bank) (with clay and reed|before the equinox|)
            (grease|furl|reef) (the windpump|the sails) (in a rising wind|)
            (barter|bag|tax) (the coarse salt|the fine white) (for herring|by the bushel|)""",
        "trouble": """rain had (dissolved|thinned|ruined) (the second pan|a week of brine|the open heaps)
            the (dyke|tide flap|sluice) had (given way|been left open|rotted) (on the seaward side|)
            the excise had (doubled|been raised) (without notice|since spring)
            the (windpump|pump rod) had (blown out of gear|shed a sail|snapped)
            (the curers|the herring fleet) had (gone north|bought rock salt|not paid)
            the brine (stayed weak|turned red|would not set)""",
        "sense": """the crunch of salt underfoot|the piping of avocets|a glare off the pans|the smell of peat smoke
            |the creak of the windpump|a taste of brine on the lips""",
        "matter": """the salt tax|the strength of the brine|the dyke|the herring|the barge creek|the rain|the rock salt
            |the price per bushel""",
    },
    "garden": {
        "work": "the (botanical garden|palm house|moving of the physic garden)",
        "loc": """the palm house|the potting shed|the fern grotto|the seed room|the lily tank|the alpine frame
            |the herbarium|the compost yard
            |the systematic beds|the boiler pit|the south wall""",
        "thing": """the palm|the seed cabinet|the watering can|the giant lily|the herbarium sheet
            |the greenhouse boiler|the cold frame
            |the orchid|the plant press|the wheelbarrow|the tulip tree|the label writer|the night cactus""",
        "things": """the seedlings|the orchids|the labels|the tree ferns|the seed packets|the bell jars|the cuttings
            |the pitcher plants
            |the specimens|the glazing bars""",
        "stuff": "leaf mould|sphagnum|bone meal|glass|charcoal|tobacco smoke|raffia",
        "role": "head gardener|botanist|plant hunter|propagator|seed clerk|illustrator|stove man|garden boy|curator",
        "crowd": "the gardeners|the garden boys|the botanists|the Sunday visitors|the propagators|the sketching class",
        "act": """(repot|water|stake) (the orchids|the tree ferns|a tray of seedlings) (in sphagnum|at the cool end
            |with rain water)
            (press|mount|name) (the specimens|a doubtful heather|the new primula) (on stiff paper|for the herbarium|)
            (sow|sift|label) (the packets from abroad|the dust fine seed|last year's lupins) (under bell jars
            |in the seed room|)
            (draw|colour|measure) (the night cactus|the giant lily) (before it faded|by lantern|)
            (fumigate|shade|reglaze) (the palm house|the long range) (with tobacco|before summer|)
            (crate|ship|exchange) (the cuttings|a case of bulbs) (with a sister garden|in moss|)
            (turn|burn|spread) (the compost|the leaf mould) (on the systematic beds|)""",
        "trouble": """(scale insects|red spider|rot) had (attacked|reached) (the palms|the orchid stove|the alpines)
            the boiler had (gone out|cracked) on (the coldest night|the eve of the flower show)
            the (palm|bamboo) had (touched|broken) (the roof|two panes)
            the labels had (been mixed|washed blank|fallen) (in the move|)
            the plant hunter had (sent only dead crates|not written since spring|lost the type specimen)
            two botanists (disputed|claimed) (the name of the primula|the same fern)""",
        "sense": """the smell of warm earth|the drip of condensation|a hot green silence|the snip of scissors
            |the gurgle of pipes|a breath of jasmine""",
        "matter": """the name of the primula|the heating|the plant hunter|the flower show|the seed exchange
            |the height of the palm
            |the red spider|the illustrations""",
    },
    "fishing": {
        "work": "the (herring season|line fishing|launching of a new lugger) (on the windward shore|at the cove|)",
        "loc": """the net loft|the curing house|the shingle bank|the slip|the bark pot|the gutting troughs
            |the lookout|the ice house
            |the bait sheds|the chapel wall|the oar rack""",
        "thing": """the lugger|the herring net|the tiller|the mizzen|the bark pot|the quarter cran|the smokehouse
            |the crab pot|the compass
            |the bilge pump|the lamp|the bait knife""",
        "things": """the herring|the nets|the long lines|the creels|the hooks|the oilskins|the kippers|the barrels
            |the corks|the oars""",
        "stuff": "bait|cutch|salt|oak chips|twine|ice|linseed oil",
        "role": "skipper|net mender|curer|boat builder|cooper|gutting girl|fish buyer|lifeboat coxswain|mate",
        "crowd": "the crews|the gutting girls|the curers|the old men on the wall|the net menders|the fishwives",
        "act": """(shoot|haul|shake) (the nets|the long lines|the drift train) (off the point|by hand|at slack water)
            (gut|salt|smoke) (the herring|six barrels of mackerel) (over oak chips|before the tide turned
            |with frozen fingers)
            (mend|bark|dry) (the nets|a torn seine) (in the loft|along the chapel wall|)
            (launch|beach|careen) (the lugger|the old yawl) (on rollers|in a following sea|)
            (bait|ready|sharpen) (two thousand hooks|the long line hooks) (by the stove|before the ebb|)
            (land|bid for|auction) (the catch|a few poor baskets) (on the shingle|before the buyers left|)
            (step|rig|reef) (the mizzen|a new mast) (at sea|with the whole crew|)""",
        "trouble": """the (herring|shoals) had (moved offshore|not come|sunk deep) (since the new moon|)
            (dogfish|a trawler|seals) had (torn|fouled) (the drift train|four nets)
            the (lugger|yawl) had (sprung a plank|lost her mizzen|come home alone)
            the buyers had (made a ring|gone to the larger port|cut the price)
            the bar was (breaking|white from end to end) (and the boats were still out|)
            the crew had (split over shares|burned flares|been ashore nine days)""",
        "sense": """the smell of barked nets|the scream of gulls|a tang of woodsmoke|the grind of keels on shingle
            |the singing of the gutting girls|the thump of barrels""",
        "matter": """the share of the catch|the price of herring|the trawlers|the weather|the widow's fund|the mast
            |the state of the bar|the bait""",
    },
    "school": {
        "work": "the (village school|evening school|building of the schoolhouse)",
        "loc": """the blackboard|the stove|the cloakroom|the playground wall|the map of the world
            |the schoolhouse porch|the infants' bench
            |the nature table|the lime tree|the master's desk|the woodshed""",
        "thing": """the handbell|the globe|the stove|the blackboard|the harmonium|the attendance roll|the cane
            |the ink jar|the reading primer
            |the abacus|the roof beam|the weather chart""",
        "things": """the slates|the primers|the inkwells|the wet coats|the sums|the benches|the copybooks
            |the birds' eggs|the atlases
            |the reading prizes""",
        "stuff": "chalk|ink|firewood|arithmetic|copy paper|cocoa|patience",
        "role": """schoolmaster|pupil teacher|school inspector|parson|caretaker|carpenter|farmer's daughter
            |board member|singing teacher""",
        "crowd": "the older pupils|the infants|the parents|the farm boys|the board members|the truants",
        "act": """(teach|hear|mark) (the long division|the infants' reading|a page of spellings) (by the stove
            |out loud|before dinner)
            (ring|hide|polish) (the handbell|the brass globe) (at nine|behind the curtain|)
            (chalk|wipe|draw) (the rivers of the continent|a difficult sum|the parts of a flower) (on the board
            |from memory|)
            (light|feed|curse) (the stove|the smoking chimney) (with wet sticks|)
            (visit|persuade|write to) (the parents|the truant's father|the board) (about attendance|after harvest|)
            (collect|display|identify) (the birds' eggs|pond water|pressed leaves) (on the nature table|)
            (roof|plaster|glaze) (the schoolhouse|the new classroom) (in the summer holiday|with free labour|)""",
        "trouble": """half the (boys|class|benches) were (absent|empty|away at the harvest) (again|for a month|)
            the (roof|stove pipe|porch) (leaked|smoked|had blown down) (over the infants|during prayers|)
            the inspector had (come a week early|found the rolls wrong|asked about drainage)
            the board had (cut the coal|refused more primers|lowered the salary)
            (measles|ringworm|a rumour of ghosts) had (emptied|closed) (the lower room|the school)
            a boy had (run off to sea|set fire to the woodshed|solved the sum in his own way)""",
        "sense": """the squeak of slates|a smell of drying coats|the drone of recitation|the clang of the handbell
            |the scrape of boots|a puff of chalk""",
        "matter": """the inspector|the coal|the farm boys|the spelling prize|the leak in the roof|the parson's visit
            |the harvest holiday
            |the salary""",
    },
    "market": {
        "work": "the (rebuilding of the market hall|weekly market|great autumn fair)",
        "loc": """the butter cross|the corn exchange|the fish slab|the weigh house|the tinker's pitch
            |the clock arcade|the horse ring
            |the flower stalls|the pump|the tavern yard|the cheese loft""",
        "thing": """the market clock|the awning|the steelyard|the cheese wheel|the auctioneer's hammer|the spice cart
            |the town pump
            |the toll book|the striped canopy|the copper kettle|the egg basket|the carousel""",
        "things": """the stalls|the cheeses|the geese|the weights and measures|the baskets of plums|the horses
            |the cobbles|the tin pans
            |the hams|the bolts of cloth""",
        "stuff": "butter|pepper|onions|loose change|ribbon|straw|gingerbread",
        "role": """market warden|cheesemonger|auctioneer|tinker|horse dealer|flower seller|spice merchant
            |toll gatherer|egg wife""",
        "crowd": "the stallholders|the farmers' wives|the pedlars|the drovers|the buyers|the street children",
        "act": """(weigh|cut|sample) (the cheese|a ham|the butter) (with a wire|on the public scales|to the last ounce)
            (cry|mark down|trade) (the plums|the tin pans|a basket of eggs) (from the cart tail|before closing|)
            (auction|trot out|doctor) (the horses|a lame cob) (in the ring|to a crowd of dealers|)
            (pitch|roll up|dye) (the awnings|the striped canopy) (in a squall|by the pump|)
            (sweep|cobble|measure) (the square|the fish lane) (after the fair|for the new hall|)
            (collect|dispute|waive) (the tolls|the pitch money) (stall by stall|)
            (juggle|grind|count) (the pepper|nutmegs|the takings) (in a brass mortar|under the arcade|)""",
        "trouble": """the (weights|scales|steelyard) had been (filed|tampered with|found short) (by an ounce|)
            the (council|landlord) had (doubled the tolls|promised the corner twice|let the arcade to a bank)
            rain had (emptied|flooded) (the square|the fish lane) (by noon|)
            a (horse|drove of geese|bull calf) had (broken loose|gone through the crockery)
            the (railway towns|new shops) had (drawn away the buyers|undersold the butter)
            the clock (struck thirteen|had stopped) (on fair day|and the bell would not ring)""",
        "sense": """the cries of pedlars|the smell of gingerbread|a clatter of pans|the cackle of geese
            |the chime of the market clock
            |the sharp scent of onions""",
        "matter": """the tolls|the false weights|the corner pitch|the price of butter|the autumn fair|the new shops
            |the lame horse
            |the rain""",
    },
    "inn": {
        "work": "the (rebuilding|first winter|upkeep) of the (mountain inn|hospice on the pass|coaching inn)",
        "loc": """the taproom|the stable arch|the snow shed|the great hearth|the guest ladder|the wine cupboard
            |the kennels|the pass road
            |the bread oven|the toll bar|the chapel of the pass""",
        "thing": """the sledge|the great hearth|the guest book|the snow bell|the soup kettle|the coach|the spare axle
            |the big dog|the lantern
            |the stove|the spit|the feather bed""",
        "things": """the sledges|the lodgers|the snow poles|the mail coaches|the copper pans|the boots in the hall
            |the hams|the blankets
            |the post horses|the shutters""",
        "stuff": "firewood|soup|brandy|oats|goose fat|rye bread|wool",
        "role": "innkeeper|coachman|ostler|mail rider|cook|guide|smuggler|chambermaid|stranded merchant",
        "crowd": "the lodgers|the post boys|the muleteers|the stranded travellers|the stable boys|the road menders",
        "act": """(stable|rub down|harness) (the post horses|a steaming team|the bay mare) (under the arch|by lantern
            |before the coach left)
            (ladle|thin|season) (the soup|the mutton broth) (for thirty|from the big kettle|)
            (dig|mark|open) (the pass road|the snow shed|the second gate) (with poles|after each storm|)
            (ring|hear|answer) (the snow bell|a call from the road) (every quarter hour|through the blizzard|)
            (mend|wax|lend) (the sledge|a broken axle|the lodgers' boots) (by the hearth|)
            (smoke|hang|carve) (the hams|a side of venison) (in the chimney|)
            (turn out|read|copy) (the guest book|the attic beds|the mail) (for the merchant|)""",
        "trouble": """(an avalanche|a rockfall|drifting snow) had (closed|buried) (the pass road|the lower gate
            |the kennels)
            the (mail coach|evening sledge) was (overdue|on its side in the gully|missing a wheel)
            the (flour|firewood|brandy) would not (last the month|outlast the lodgers)
            a (lodger|merchant) had (left without paying|walked out into the storm|slept through the fire bell)
            the new (tunnel|carriage road) would (take the traffic|pass under the mountain|leave the inn behind)
            the (chimney|roof beam) had (caught|cracked) (under the snow|at supper|)""",
        "sense": """the stamp of horses|the smell of mutton broth|the howl of the dogs|a crackle of pine logs
            |the tolling of the snow bell|a draught under the door""",
        "matter": """the state of the pass|the tunnel|the unpaid bills|the avalanche|the mail contract|the firewood
            |the missing sledge|the hay""",
    },
    "pottery": {
        "work": "the (pottery|relighting of the great kiln|tile contract) (under the hill|of the lower village|)",
        "loc": """the kiln mouth|the clay pit|the throwing room|the glaze tubs|the drying racks|the shard heap
            |the pug mill|the sagger house
            |the decorator's window|the woodpile|the tile yard""",
        "thing": """the kiln|the wheel|the pug mill|the glaze tub|the sagger|the tall jar|the pyrometer
            |the tile press|the clay cart
            |the teapot|the slip trailer|the kiln door""",
        "things": """the saggers|the tiles|the jugs|the glaze tests|the kiln shelves|the teapots
            |the bricks of the arch|the chamois strips
            |the pots|the cones""",
        "stuff": "clay|slip|wood ash|feldspar|tin glaze|kindling|flint",
        "role": """master potter|thrower|glaze maker|kiln burner|tile painter|clay digger|handle maker|shopkeeper
            |journeyman""",
        "crowd": "the throwers|the kiln burners|the painters|the clay diggers|the tile setters|the handle girls",
        "act": """(throw|turn|centre) (the tall jar|a set of bowls|the lid of a teapot) (on the kick wheel
            |with wet hands|in one pull)
            (dig|wedge|weather) (the red clay|a cartload of marl) (through the winter|on the slab|)
            (glaze|dip|paint) (the tiles|the jugs|a border of fishes) (in tin white|with a hair brush|)
            (fire|brick up|draw) (the kiln|the bottom chamber) (for three days|while still warm|)
            (sieve|grind|mix) (the wood ash|the flint|a copper green) (to the old recipe|through lawn|)
            (stack|set|fill) (the saggers|the upper shelves) (without touching|to the arch|)
            (smash|mend|sell) (the seconds|a cracked platter) (on the shard heap|with wire|)""",
        "trouble": """the (glaze|slip|copper green) had (crawled|blistered|run) (off the rims|in the hot corner|)
            the (kiln|arch|flue) had (slumped|leaked heat|cooled unevenly) (on the second night|)
            the (clay|marl) was full of (lime|roots|shell) and the (pots|tiles) burst
            the builder had (rejected|altered|forgotten) (the tiles|the order)
            a shelf had (given way|tipped) with (ninety jugs|the whole dinner service)
            the wood was (green|soaked) and (the fire would not climb|the smoke blackened everything)""",
        "sense": """the hum of the wheel|the smell of wet clay|a shimmer over the kiln|the slap of wedging
            |the crack of cooling pots|a drift of wood smoke""",
        "matter": """the recipe for the green|the tile contract|the cost of kindling|the seconds|the tin from abroad
            |the damp clay
            |the kiln shelves|the apprentice""",
    },
}
