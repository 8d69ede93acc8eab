// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"

	"staunch/api"
)

// httpStatus is the status of each code; 0 for one that is not in the table.
func httpStatus(c api.Code) int {
	switch c {
	case api.BadRequest, api.ODataError, api.InvalidInput, api.InvalidRequestBody, api.InvalidHashValue, api.InvalidDomainName,
		api.InvalidIPAddress, api.InvalidURL, api.MaximumBatchSizeExceeded, api.MissingRequiredParameter, api.OSPlatformNotSupported,
		api.ClientVersionNotSupported, api.ActiveRequestAlreadyExists:
		return http.StatusBadRequest
	case api.Unauthorized:
		return http.StatusUnauthorized
	case api.Forbidden, api.DisabledFeature, api.DisallowedOperation:
		return http.StatusForbidden
	case api.NotFound, api.ResourceNotFound:
		return http.StatusNotFound
	case api.MethodNotAllowed:
		return http.StatusMethodNotAllowed
	case api.RequestTooLarge:
		return http.StatusRequestEntityTooLarge
	case api.TooManyRequests:
		return http.StatusTooManyRequests
	case api.ServiceUnavailable:
		return http.StatusServiceUnavailable
	case api.InternalServerError:
		return http.StatusInternalServerError
	}
	return 0
}
