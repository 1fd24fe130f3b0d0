// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
)

// The faults below refuse whoever calls, whatever the credential, in the forms that were recorded. Path and the other fields that choose
// the requests are for the caller to set; a workspace behind an IP access list refuses its token endpoint in the same way.

// BlockedAddress is the answer to an address that is not on the workspace's IP access list.
func (w *Workspace) BlockedAddress(address string) Fault {
	return w.denial(fmt.Sprintf("Source IP address: %s is blocked by Databricks IP ACL for workspace: %s", address, w.settings.workspaceID))
}

// BlockedNetwork is the answer to a network that the workspace's network policy, or private link, keeps out. It was seen as an envelope
// and as a plain text, which is what this one is.
func (w *Workspace) BlockedNetwork() Fault {
	return Fault{Status: http.StatusForbidden, Body: "Unauthorized network access to workspace: " + w.settings.workspaceID}
}

// ForeignOrg is the answer to somebody who is not in the workspace, or whose credential is for another one.
func (w *Workspace) ForeignOrg() Fault {
	return w.denial("Invalid access to Org: " + w.settings.workspaceID)
}

func (w *Workspace) denial(message string) Fault {
	return Fault{Status: http.StatusForbidden, Body: fmt.Sprintf(`{"error_code":403,"message":%q}`, message)}
}
