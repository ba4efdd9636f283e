package admission

import "time"

// The constants of the controller, all of them. Those marked (b) come from the
// simulation of docs/overload.md, the others from the simulated servers of its tests.
const (
	// The steps: when and by how much limits move.

	// startSeats and startTokens are the first limits of a target of which nothing is
	// known. From there they grow by rush for each step, until something is too slow.
	startSeats  = 16.0
	startTokens = 30_000.0
	leastTokens = 2_000.0 // one common prompt and its answer: less only sheds
	rush        = 1.5
	rushBack    = 2.0 // where it is known what was good

	// ttftShare of SLO.TTFT is for the wait inside the target: stricter aims than
	// what one long prompt costs all others make the limit collapse. (b)
	// gapShare of SLO.TPOT is for the mean gap: the mean of a stream is what counts.
	ttftShare = 0.4
	gapShare  = 0.8

	// stallAfter is a gap in which a model server did something else, and
	// stallLimit the share of the time of streams that such gaps may take: more
	// means that it throws requests out of its cache and starts them again. (b)
	stallAfter  = 0.5
	stallLimit  = 0.03
	stallWeight = 3.0

	// deepest is the largest cut of one step, and what follows refusals and failures
	// of the target. (b) softest is the smallest, which a few refusals of many bring.
	deepest = 0.85
	hard    = 1 / 0.7
	softest = 1.05
	// fewStreams is the share of the requests at the target below which streams say
	// nothing for all of them, and mostStreams that from which on they do without more.
	// Between the two at least stalledLeast of them must have stalled: one that pauses
	// is a feed or a tool that runs, and not an engine that has no room.
	fewStreams   = 0.2
	mostStreams  = 0.5
	stalledLeast = 3.0

	// heardWithin is the seconds in which a stream is looked for: those of gapSteps.
	heardWithin = 3.0

	// failureShare is the share of failures that counts, refusedShare that of
	// refusals: a request that always fails says nothing of load.
	// What fails anyway is learnt in usualSteps.
	failureShare = 0.1
	usualSteps   = 300.0
	refusedShare = 0.01

	// cutFrom and growFrom are how much of a limit must have been used before it is
	// moved. (b) What is not used is not known to be wrong.
	cutFrom  = 0.5
	growFrom = 0.8
	// holdSteps is for how many steps nothing grows after a cut. (b)
	holdSteps = 2
	// seatStep * sqrt(L) is how many seats are added. Tokens grow by the same share,
	// and by tokenStep at least. (b)
	seatStep  = 0.25
	tokenStep = 0.03
	// largestFade is how much the largest request of a step counts in the next.
	largestFade = 0.8

	// calm is how far below the aim the signals are where a limit rushes back to
	// what was good. Only to goodShare of it: the last of it is found step by step.
	// What was good is forgotten in goodSteps, because the load's mix changes.
	calm      = 0.7
	goodShare = 0.8
	goodSteps = 120.0

	// urge is by how much faster limits grow for each bit that the signals are below
	// calmest: while tokens come as fast as from a server with nothing to do, there is
	// far to go.
	urge     = 15.0
	calmest  = 0.5
	mostUrge = 4.0

	// Tokens that were too many twice, within sameTop of each other, are probably too
	// many again, and a cache that overflows shows it only when it is too late. Within
	// nearTop of it their limit grows more slowly the nearer it is, but never below
	// slowTop of its speed: after two minutes it is passed, because what is too much
	// changes.
	sameTop = 0.25
	nearTop = 0.3
	slowTop = 0.05

	// drainRate is the part of what ends after a cut that is not given out again, until
	// no more runs than the limit allows: if nothing were, all that wait would be late,
	// and would come back together. drainSlack is by how much more than a limit may run
	// before the last cut counts as not done yet.
	drainRate  = 0.5
	drainSlack = 0.02

	// Refusals that cutting does not make fewer come from something else, such as a
	// caller's own quota at the target. blameSteps is for how many steps after the
	// first cut they are counted, to be compared with as many others or more; after
	// blameOver steps without a cut the next one is the first again. They are fewer
	// where their number fell below refusedLess of what as many seats would have, or
	// their share below half, and it cost work where a tenth is lost. (b, see the guard)
	// What is usual then must be passed by usualNoise standard deviations.
	blameSteps  = 2
	blameOver   = 5
	refusedLess = 0.8
	refusedHalf = 0.5
	refusedCost = 0.1
	usualNoise  = 2.0
	usualMost   = 0.9

	// silentRise is by how much limits grow for each step in which the target was full
	// and nothing at all was heard from it: calls that take a minute say nothing for a
	// minute. mostSilent is by how much in all for requests with tokens, and for all from
	// the second time on: then those must be answered before there are more.
	silentRise = 1.25
	mostSilent = 2.0
	// longerRatio is by how much longer than at low load calls may take before limits
	// grow in silence again.
	longerRatio = 1.2
	// probeRatio is the same from where on a limit that grew in silence is made smaller
	// until it shows whether the work becomes less.
	probeRatio = 1.5

	// improvement is how much better two cuts must make things, and lossy how much
	// less work shows that they cost something. Where they did not help they are
	// taken back, and nothing is cut for pauseSteps, twice as long each time. (b; the
	// idea is Uber Cinnamon's and failsafe-go's) Work that is counted in few events is
	// only known to about one part in their root.
	improvement  = 0.05
	lossy        = 0.05
	pauseSteps   = 10
	longestPause = 80

	// trimBy is the cut of one step where fewer would bring no less.
	trimBy = 1.03

	// stepEvery is how often limits move, and stepSlack how much early a step may be:
	// timers are not exact.
	stepEvery = time.Second
	stepSlack = stepEvery / 10
	// longestStep bounds what a process that was stopped takes for a rate.
	longestStep = 5 * time.Second

	// Streams: first tokens, gaps, and power where there is no service level.

	// firstWindow is from when the first tokens of a step are, and firstLongest from
	// when they may be where those are fewer than firstEnough.
	firstWindow  = 1 * time.Second
	firstLongest = 5 * time.Second
	firstEnough  = 10
	firstLeast   = 3
	firstKept    = 256
	firstRank    = 0.9

	// betaFrom is the shortest prompt that tells how fast prompts are read: with less
	// it is the rest that takes the time. The share betaRank that was fastest for its
	// length did not have to wait. betaHalf is in how many seconds with prompts they
	// count for half, so that a minute of trouble is not learnt. (b)
	betaFrom  = 512
	betaRank  = 0.1
	betaHalf  = 120.0
	betaLeast = 8.0
	betaScale = 1e-7 // seconds a token, of the fastest reader
	// startPrefill is what may be read at once until beta is known, or firstKnown
	// first tokens have shown that prompts are too short to matter: else a burst of
	// long ones at the start is late, and is taken for overload.
	startPrefill = 4096.0
	firstKnown   = 50
	// wholeShare is how many answers in one piece make the limit on prompts useless,
	// of the last piecesMean or so.
	wholeShare = 0.25
	piecesMean = 32.0
	// noAimPrefill is how many seconds of reading prompts may be there at once without
	// an aim for first tokens: more has no use, and does harm before it is seen.
	noAimPrefill = 1.0

	// waitShare is how much of the time of streams without a service level may go by
	// waiting for first tokens, beyond what prompts explain and what all wait for.
	waitShare = 0.15

	// streamFade is how much of what streamed in a step still counts in the next:
	// prompts come in bursts, and while they are read nothing is made.
	streamFade = 0.7

	// gapEnough is how many tokens make a mean; where a step has fewer, those of the
	// gapSteps before count as well.
	gapEnough = 50.0
	gapSteps  = 3

	// powerOf is how much throughput counts for, beside the time of each token: with
	// 1 the best is where a token takes twice as long as alone, and a tenth to a third
	// of the throughput is given away for that; with 2 it is three times.
	powerOf = 2.0
	// powerFast is how much of the slope of the power is made up for in one step.
	powerFast = 0.3
	powerMost = 0.15

	// Plain calls: latency by kind, and the work that seats bring.

	// plainRatio is how many times the latency at low load may be reached without a
	// service level, and plainShare the part of one that may: the rest is for the
	// queue here. What is less than plainSlower times as slow as at low load is not
	// slow because of load, whatever the service level says.
	plainRatio  = 2.0
	plainShare  = 0.8
	plainSlower = 1.3
	plainRank   = 0.9

	// kindsKept is how many kinds are told apart. The rest shares the last
	// place. kindForgotten is after how many steps a kind without calls
	// gives its place up.
	kindsKept     = 64
	kindForgotten = 600

	// A kind is compared when windowEnough calls of it have ended, or windowLeast in
	// windowSteps. Means fade by windowFade a step; as many as windowDoubt calls that
	// were like those at low load are added, so that a few slow ones decide nothing.
	windowEnough = 30
	windowLeast  = 5
	windowSteps  = 5
	windowFade   = 0.5
	windowDoubt  = 8.0

	// What is normal is learnt from baseEnough calls at a time, or baseLeast in
	// baseSteps; the first time from baseFirst, and from twice as many again until
	// there are enough. It follows half of the way down, and upwards at most twice in
	// baseDouble steps: the drift of a day is followed, an incident of a minute moves
	// it by 7 % (failsafe-go#127). Upwards only while the target has little to do, or
	// while seats and work grow and shrink together, so that nobody waits inside; else
	// downwards only, by more than noise, baseNoise.
	baseFirst   = 30.0
	baseEnough  = 200.0
	baseLeast   = 30
	baseSteps   = 60
	baseDouble  = 600.0
	baseNoise   = 0.8
	baseScale   = 20e-6 // seconds, of the fastest call
	worstRatio  = 10.0
	bestRatio   = 0.5
	noLoadRatio = 1.4

	// Work that grows by less than flatSlope of a percent for a percent of seats does
	// not grow, work that grows by more does: of half the seats the other half would
	// do the work. By less than idleSlope, seats are taken away.
	flatSlope = 0.5
	idleSlope = 0.3
	// A point of work and seats is of as many steps as bring pointCalls calls, and of
	// pointSteps at most.
	pointCalls = 30
	pointSteps = 10
	// blankFade is what a step without a point takes off the others.
	blankFade = 0.98

	// The metrics of engines.

	// engineStale is how old metrics may be. What is older counts for nothing, but
	// for the sizes, which do not change by getting old: limits neither open nor
	// close because a scrape fails. (llm-d halted at "stale means full")
	engineStale = 5 * time.Second
	// cacheShare is how much of an engine's cache is given out: it needs some of it
	// for what it shares and for what was estimated wrong. (b)
	cacheShare = 0.95
	// cacheFull is from where on an engine will soon have to throw something out.
	cacheFull = 0.9
	// engineKept is of how many scrapes the least counts: a queue that stands is
	// one, a request that was just sent is not.
	engineKept = 3
	// queueTolerated is how many may wait inside for each that runs: those whose
	// prompt is read next. The limit on prompts lets some wait all the time.
	queueTolerated = 0.25
	queueMost      = 2.0

	// Histograms and trends.

	// A bucket of a histogram is 7 % wide: a median is right to 3.5 %. From the
	// smallest to the largest they span a factor of 50 million.
	buckets       = 256
	bucketsOctave = 10

	// trendFade is how much a point of a trend counts after each further one: some
	// fourteen of them matter. With less than trendLeast of them, or where what was
	// moved was moved by less than trendSpread (as a standard deviation of its
	// logarithm), a slope is not known.
	trendFade   = 0.93
	trendLeast  = 4.0
	trendSpread = 0.04
	// A point that lies trendBreak off the line, and as many times what points usually
	// do, shows that the target has changed: the line begins anew.
	trendBreak  = 0.3
	trendErrors = 4.0
)
