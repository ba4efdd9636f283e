package dialect

import (
	"net/http"

	"github.com/inferweir/weir"
)

// anthropicBody is the body of an error. Its request_id is null in errors that
// have none.
type anthropicBody struct {
	Type      string         `json:"type"`
	Error     anthropicError `json:"error"`
	RequestID *string        `json:"request_id"`
}

type anthropicError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// anthropicEvent is an error in a stream, which has no request_id.
type anthropicEvent struct {
	Type  string         `json:"type"`
	Error anthropicError `json:"error"`
}

func anthropicBodyOf(p *weir.Problem, requestID string) anthropicBody {
	b := anthropicBody{Type: "error", Error: anthropicErrorOf(p)}
	if requestID != "" {
		b.RequestID = &requestID
	}
	return b
}

func anthropicErrorOf(p *weir.Problem) anthropicError {
	return anthropicError{Type: anthropicType(statusOf(p)), Message: message(p)}
}

// anthropicType is the type that goes with a status. The API has no types for
// most of the 4xx: they are invalid requests with a status of their own.
func anthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	case http.StatusServiceUnavailable, statusOverloaded:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}
