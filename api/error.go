// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
)

// Code is the stable part of an error, as in {"error":{"code":…}}.
type Code string

// The codes of the Defender API. What is none of them is InternalServerError,
// whose cause goes to the server's log and not to the client.
const (
	BadRequest                 Code = "BadRequest"
	ODataError                 Code = "ODataError"
	InvalidInput               Code = "InvalidInput"
	InvalidRequestBody         Code = "InvalidRequestBody"
	InvalidHashValue           Code = "InvalidHashValue"
	InvalidDomainName          Code = "InvalidDomainName"
	InvalidIPAddress           Code = "InvalidIpAddress"
	InvalidURL                 Code = "InvalidUrl"
	MaximumBatchSizeExceeded   Code = "MaximumBatchSizeExceeded"
	MissingRequiredParameter   Code = "MissingRequiredParameter"
	OSPlatformNotSupported     Code = "OsPlatformNotSupported"
	ClientVersionNotSupported  Code = "ClientVersionNotSupported"
	ActiveRequestAlreadyExists Code = "ActiveRequestAlreadyExists"
	Unauthorized               Code = "Unauthorized"
	Forbidden                  Code = "Forbidden"
	DisabledFeature            Code = "DisabledFeature"
	DisallowedOperation        Code = "DisallowedOperation"
	NotFound                   Code = "NotFound"
	ResourceNotFound           Code = "ResourceNotFound"
	MethodNotAllowed           Code = "MethodNotAllowed"
	RequestTooLarge            Code = "RequestEntityTooLarge"
	TooManyRequests            Code = "TooManyRequests"
	ServiceUnavailable         Code = "ServiceUnavailable"
	InternalServerError        Code = "InternalServerError"
)

// Error is a refusal: what the domain returns, what the client gets, and what
// the Go client hands back, so that errors.As finds the same code on both sides.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Target  string `json:"target"` // names the request in the server's log

	// RetryAfter, in seconds, goes with TooManyRequests.
	RetryAfter int `json:"-"`
}

// ErrorBody is the body of every error answer.
type ErrorBody struct {
	Error *Error `json:"error"`
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes a refusal. Its text is shown to the caller: no causes, no secrets.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the refusal in err's chain, InternalServerError
// for any other error, and "" for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return InternalServerError
}
