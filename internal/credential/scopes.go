// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"fmt"
	"slices"
	"strings"
)

// allAPIs is the scope of everything.
const allAPIs = "all-apis"

// widened returns an error if what was made, which may do what was answered, may do more than was asked for. fate says what becomes of it.
func widened(what, fate string, asked, answered []string) error {
	more := slices.DeleteFunc(slices.Clone(answered), func(scope string) bool { return slices.Contains(asked, scope) })
	if len(asked) == 0 || slices.Contains(asked, allAPIs) || len(more) == 0 {
		return nil
	}
	return fmt.Errorf("the new %s is %s, since it also has the API scopes %s, although only %s were asked for", what, fate, strings.Join(more, ", "), strings.Join(asked, ", "))
}

// unconfirmed returns a warning if the answer does not say which scopes what was made has, although some were asked for: a workspace that
// doesn't know scopes ignores them, as it does whatever it doesn't know. Versions before took no notice of the answer, and their roles
// must go on working there, so it is no error.
func unconfirmed(what string, asked, answered []string) string {
	if len(answered) > 0 || len(asked) == 0 || slices.Contains(asked, allAPIs) {
		return ""
	}
	return fmt.Sprintf("Databricks did not confirm that the %s is limited to the API scopes %s, so it may have no limits.", what, strings.Join(asked, ", "))
}

// shownScopes returns the scopes that an answer shows: those that Databricks has answered or, where it has answered none, those that were asked
// for.
func shownScopes(asked, answered []string) []string {
	if len(answered) == 0 {
		answered = asked
	}
	return append([]string{}, answered...)
}
