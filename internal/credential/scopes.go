// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"fmt"
	"slices"
	"strings"
)

// allAPIs is the scope of everything.
const allAPIs = "all-apis"

// widened returns an error if a new OAuth secret may do more than was asked for. An answer without scopes doesn't confirm those that were
// asked for: a workspace that doesn't know them ignores them, as it does whatever it doesn't know.
func widened(asked, answered []string) error {
	if len(asked) == 0 || slices.Contains(asked, allAPIs) {
		return nil
	}
	if len(answered) == 0 {
		return fmt.Errorf("the new OAuth secret is removed again, since Databricks did not confirm that it is limited to the API scopes %s; this workspace may not know scopes of OAuth secrets, so leave scopes out for a secret without limits, or use %s of a named service principal", strings.Join(asked, ", "), OAuthToken)
	}
	more := slices.DeleteFunc(slices.Clone(answered), func(scope string) bool { return slices.Contains(asked, scope) })
	if len(more) == 0 {
		return nil
	}
	return fmt.Errorf("the new OAuth secret is removed again, since it also has the API scopes %s, although only %s were asked for", strings.Join(more, ", "), strings.Join(asked, ", "))
}
