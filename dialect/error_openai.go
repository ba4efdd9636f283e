package dialect

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// openAIBody is the body of an error. The specification of OpenAI's API requires
// all members of error; two of them may be null.
type openAIBody struct {
	Error openAIError `json:"error"`
}

type openAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func openAIErrorOf(p *weir.Problem) openAIError {
	status := statusOf(p)
	if status == http.StatusTooManyRequests {
		return openAIRateError(p)
	}
	kind, code := "invalid_request_error", ""
	switch {
	case status == http.StatusUnauthorized:
		code = "invalid_api_key"
	case status == http.StatusPaymentRequired:
		kind, code = "insufficient_quota", "insufficient_quota"
	case status == http.StatusForbidden:
		kind = "permission_error"
	case status == http.StatusServiceUnavailable, status == statusOverloaded:
		kind, code = "service_unavailable_error", "server_is_overloaded"
	case status == http.StatusGatewayTimeout:
		kind, code = "server_error", "timeout"
	case status >= 500:
		kind = "server_error"
	}
	return newOpenAIError(kind, code, message(p))
}

// unitMoney is the unit of a quota of money, in 1e-9 USD.
const unitMoney = "nanousd"

// openAIRateError is a 429: for a while, for long, or for ever. Only clients that
// read insufficient_quota stop by themselves at a long wait (LangChain does);
// others look at X-Should-Retry. Money that is spent is insufficient_quota, whatever
// the wait is.
func openAIRateError(p *weir.Problem) openAIError {
	const code = "rate_limit_exceeded"
	if p.Unit == "" && p.Type != weir.TypeQuotaExceeded { // too fast, but no quota of the caller's
		return newOpenAIError("rate_limit_error", "slow_down", withWait(message(p), p.RetryAfter))
	}
	if p.Unit == unitMoney {
		return newOpenAIError("insufficient_quota", "project_spend_limit_exceeded", message(p))
	}
	kind := "requests"
	if strings.HasSuffix(p.Unit, "tokens") {
		kind = "tokens"
	}
	switch text := message(p); {
	case p.RetryAfter == weir.Never:
		return newOpenAIError(kind, code, reworded(text, "Request too large: "))
	case p.RetryAfter > longWait:
		return newOpenAIError("insufficient_quota", "insufficient_quota", text)
	default:
		return newOpenAIError(kind, code, withWait(reworded(text, "Rate limit reached: "), p.RetryAfter))
	}
}

func newOpenAIError(kind, code, text string) openAIError {
	e := openAIError{Message: text, Type: kind}
	if code != "" {
		e.Code = &code
	}
	return e
}

// reworded begins the text of a refused quota with OpenAI's own words, which some
// clients look for.
func reworded(text, beginning string) string {
	if rest, ok := strings.CutPrefix(text, "Request refused: "); ok {
		return beginning + rest
	}
	return text
}

// withWait ends text with OpenAI's own sentence about the wait, exact to the
// millisecond: clients find "try again in 26.604s" in it. It replaces the
// sentence in whole seconds that refusals of a quota end with.
func withWait(text string, wait time.Duration) string {
	if wait <= 0 {
		return text
	}
	const sentence = " Try again in "
	if i := strings.LastIndex(text, sentence); i >= 0 && inSeconds(text[i+len(sentence):]) {
		text = text[:i]
	}
	ms := (wait + time.Millisecond - 1) / time.Millisecond
	return text + " Please try again in " + strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64) + "s."
}

// inSeconds reports whether text is such as "12 seconds.".
func inSeconds(text string) bool {
	n, unit, _ := strings.Cut(text, " ")
	_, err := strconv.ParseUint(n, 10, 64)
	return err == nil && (unit == "seconds." || unit == "second.")
}
