// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"fmt"
	"slices"
	"strings"
)

// allAPIs is the scope of everything.
const allAPIs = "all-apis"

// widened returns an error if a new OAuth secret may do more than was asked for.
func widened(asked, answered []string) error {
	more := slices.DeleteFunc(slices.Clone(answered), func(scope string) bool { return slices.Contains(asked, scope) })
	if len(asked) == 0 || slices.Contains(asked, allAPIs) || len(more) == 0 {
		return nil
	}
	return fmt.Errorf("the new OAuth secret is removed again, since it also has the API scopes %s, although only %s were asked for", strings.Join(more, ", "), strings.Join(asked, ", "))
}

// unconfirmed returns a warning if the answer does not say which scopes a new OAuth secret has, although some were asked for: a workspace that
// doesn't know scopes of secrets ignores them, as it does whatever it doesn't know. Versions before took no notice of the answer, and their roles
// must go on working there, so it is no error.
func unconfirmed(asked, answered []string) string {
	if len(answered) > 0 || len(asked) == 0 || slices.Contains(asked, allAPIs) {
		return ""
	}
	return fmt.Sprintf("Databricks did not confirm that the OAuth secret is limited to the API scopes %s, so it may have no limits: this workspace may not know scopes of OAuth secrets. To be sure of them, use %s of a named service principal.", strings.Join(asked, ", "), OAuthToken)
}
