// SPDX-License-Identifier: Apache-2.0

package api

import "encoding/json"

// Indicator is a standing rule, as the API shows it.
type Indicator struct {
	Context                 string           `json:"@odata.context,omitempty"`
	ID                      string           `json:"id"` // digits
	IndicatorValue          string           `json:"indicatorValue"`
	IndicatorType           string           `json:"indicatorType"`
	Action                  string           `json:"action"`
	CreatedBy               string           `json:"createdBy"`
	Severity                string           `json:"severity"`
	Category                int64            `json:"category"`
	Application             *string          `json:"application"`
	EducateURL              *string          `json:"educateUrl"`
	BypassDurationHours     *int64           `json:"bypassDurationHours"`
	Title                   string           `json:"title"`
	Description             string           `json:"description"`
	RecommendedActions      *string          `json:"recommendedActions"`
	CreationTimeDateTimeUTC Time             `json:"creationTimeDateTimeUtc"`
	ExpirationTime          *Time            `json:"expirationTime"`
	LastUpdateTime          Time             `json:"lastUpdateTime"`
	LastUpdatedBy           *string          `json:"lastUpdatedBy"`
	RbacGroupNames          []string         `json:"rbacGroupNames"`
	RbacGroupIDs            []string         `json:"rbacGroupIds"`
	NotificationID          *string          `json:"notificationId"`
	NotificationBody        *string          `json:"notificationBody"`
	Version                 *string          `json:"version"`
	MitreTechniques         []string         `json:"mitreTechniques"`
	HistoricalDetection     bool             `json:"historicalDetection"`
	LookBackPeriod          *string          `json:"lookBackPeriod"`
	GenerateAlert           bool             `json:"generateAlert"`
	AdditionalInfo          *string          `json:"additionalInfo"`
	CreatedByDisplayName    string           `json:"createdByDisplayName"`
	ExternalID              *string          `json:"externalId"`
	CreatedBySource         string           `json:"createdBySource"`
	CertificateInfo         *CertificateInfo `json:"certificateInfo"`
	Source                  string           `json:"source"`     // as createdBySource, under its older name
	SourceType              string           `json:"sourceType"` // User, AadApp
}

// CertificateInfo is about an indicator of type CertificateThumbprint; no agent fills it.
type CertificateInfo struct {
	Issuer  *string `json:"issuer"`
	Serial  *string `json:"serial"`
	SHA256  *string `json:"sha256"`
	Subject *string `json:"subject"`
}

// IndicatorRequest is the body of POST /api/indicators and one row of an import.
type IndicatorRequest struct {
	IndicatorValue     string   `json:"indicatorValue"`
	IndicatorType      string   `json:"indicatorType"` // FileSha1, FileSha256, FileMd5, CertificateThumbprint, IpAddress, DomainName, Url
	Action             string   `json:"action"`        // Allowed, Audit, Block, BlockAndRemediate, Warn
	Title              string   `json:"title"`
	Description        string   `json:"description"`
	GenerateAlert      bool     `json:"generateAlert,omitempty"`
	Severity           string   `json:"severity,omitempty"`
	RecommendedActions string   `json:"recommendedActions,omitempty"`
	Application        string   `json:"application,omitempty"`
	ExpirationTime     *Time    `json:"expirationTime,omitempty"`
	RbacGroupNames     []string `json:"rbacGroupNames,omitempty"` // or one string, by commas
	EducateURL         string   `json:"educateUrl,omitempty"`
	ExternalID         string   `json:"externalId,omitempty"`
}

// IndicatorImport is the body of POST /api/indicators/import.
type IndicatorImport struct {
	Indicators []IndicatorRequest `json:"Indicators"` // at most 500
}

// IndicatorImportResult is its answer: a row for each.
type IndicatorImportResult struct {
	Value []ImportedIndicator `json:"value"`
}

// ImportedIndicator is what became of one row of an import.
type ImportedIndicator struct {
	ID            *string `json:"id"`
	Indicator     string  `json:"indicator"`
	IsFailed      bool    `json:"isFailed"`
	FailureReason *string `json:"failureReason"`
}

// IndicatorBatch is the body of POST /api/indicators/BatchDelete.
type IndicatorBatch struct {
	IndicatorIDs []string `json:"IndicatorIds"` // at most 500
}

// File is what is on record of a content.
type File struct {
	Context             string  `json:"@odata.context,omitempty"`
	SHA1                string  `json:"sha1"`
	SHA256              string  `json:"sha256"`
	MD5                 *string `json:"md5"`
	GlobalPrevalence    *int64  `json:"globalPrevalence"`
	GlobalFirstObserved *Time   `json:"globalFirstObserved"`
	GlobalLastObserved  *Time   `json:"globalLastObserved"`
	Size                *int64  `json:"size"`
	FileType            *string `json:"fileType"`
	IsPeFile            bool    `json:"isPeFile"`
	FilePublisher       *string `json:"filePublisher"`
	FileProductName     *string `json:"fileProductName"`
	Signer              *string `json:"signer"`
	Issuer              *string `json:"issuer"`
	SignerHash          *string `json:"signerHash"`
	IsValidCertificate  *bool   `json:"isValidCertificate"`
	DeterminationType   string  `json:"determinationType"`
	DeterminationValue  *string `json:"determinationValue"`
}

// FileStats is how far a content has spread. Clients read either of two sets of names.
type FileStats struct {
	Context                string   `json:"@odata.context,omitempty"`
	SHA1                   string   `json:"sha1"`
	OrgPrevalence          string   `json:"orgPrevalence"`
	OrganizationPrevalence int64    `json:"organizationPrevalence"`
	OrgFirstSeen           *Time    `json:"orgFirstSeen"`
	OrgLastSeen            *Time    `json:"orgLastSeen"`
	GlobalPrevalence       string   `json:"globalPrevalence"`
	GloballyPrevalence     int64    `json:"globallyPrevalence"`
	GlobalFirstObserved    *Time    `json:"globalFirstObserved"`
	GlobalLastObserved     *Time    `json:"globalLastObserved"`
	TopFileNames           []string `json:"topFileNames"`
}

// Alert is what a device met that an indicator wants told, as the API shows it.
type Alert struct {
	Context            string            `json:"@odata.context,omitempty"`
	ID                 string            `json:"id"`
	IncidentID         *int64            `json:"incidentId"`
	InvestigationID    *int64            `json:"investigationId"`
	AssignedTo         *string           `json:"assignedTo"`
	Severity           string            `json:"severity"`
	Status             string            `json:"status"`
	Classification     *string           `json:"classification"`
	Determination      *string           `json:"determination"`
	InvestigationState string            `json:"investigationState"`
	DetectionSource    string            `json:"detectionSource"`
	DetectorID         *string           `json:"detectorId"`
	Category           string            `json:"category"`
	ThreatFamilyName   *string           `json:"threatFamilyName"`
	ThreatName         *string           `json:"threatName"`
	Title              string            `json:"title"`
	Description        string            `json:"description"`
	AlertCreationTime  Time              `json:"alertCreationTime"`
	FirstEventTime     Time              `json:"firstEventTime"`
	LastEventTime      Time              `json:"lastEventTime"`
	LastUpdateTime     Time              `json:"lastUpdateTime"`
	ResolvedTime       *Time             `json:"resolvedTime"`
	MachineID          string            `json:"machineId"`
	ComputerDNSName    *string           `json:"computerDnsName"`
	RbacGroupName      *string           `json:"rbacGroupName"`
	AadTenantID        *string           `json:"aadTenantId"`
	MitreTechniques    []string          `json:"mitreTechniques"`
	RelatedUser        *json.RawMessage  `json:"relatedUser"`
	Comments           []AlertComment    `json:"comments"`
	Evidence           []AlertFileEntity `json:"evidence"`
}

// AlertComment is what somebody wrote about an alert.
type AlertComment struct {
	Comment     string `json:"comment"`
	CreatedBy   string `json:"createdBy"`
	CreatedTime Time   `json:"createdTime"`
}

// AlertFileEntity is the file that an alert is about.
type AlertFileEntity struct {
	EntityType      string  `json:"entityType"` // File
	SHA1            string  `json:"sha1"`
	SHA256          string  `json:"sha256"`
	FileName        string  `json:"fileName"`
	FilePath        string  `json:"filePath"`
	DetectionStatus *string `json:"detectionStatus"` // Prevented, Detected
}

// AlertUpdate is the body of PATCH /api/alerts/{id}. What is not there stays as it is.
type AlertUpdate struct {
	Status         string  `json:"status,omitempty"` // New, InProgress, Resolved
	AssignedTo     *string `json:"assignedTo,omitempty"`
	Classification string  `json:"classification,omitempty"`
	Determination  string  `json:"determination,omitempty"`
	Comment        string  `json:"comment,omitempty"`
}
