"""The widgets of CTK that SIFA's windows may use, as small Qt widgets that look and behave alike."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from .native_property import computed, delegated, stored
from .qt_module import ClassModule

_INDICATOR = 16


class ctkCollapsibleButton(QtWidgets.QAbstractButton):  # noqa: N801
    """A section: a title bar that hides and shows what lies below."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, *args: Any) -> None:
        parent = next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None)
        super().__init__(parent)
        self._collapsed = False
        self._shown_before: dict[QtWidgets.QWidget, bool] = {}
        if args and isinstance(args[0], str):
            self.setText(args[0])
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Preferred)
        self.toggled.connect(self._toggled)
        self.setContentsMargins(0, self._bar_height(), 0, 0)

    def _toggled(self, checked: bool) -> None:
        self.setCollapsed(not checked)

    def setCollapsed(self, collapsed: bool) -> None:  # noqa: N802
        """Hide or show the contents; what was hidden by itself stays hidden."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            self._hide_contents()
        else:
            for child, shown in self._shown_before.items():
                child.setVisible(shown)
            self._shown_before = {}
        self.setChecked(not collapsed)
        self._limit_height()
        self.contentsCollapsed.emit(collapsed)

    collapsed = computed(bool, lambda self: self._collapsed, setCollapsed)
    collapsedHeight = stored(int, 10)
    contentsFrameShape = stored(int, 0)
    contentsFrameShadow = stored(int, 16)
    contentsLineWidth = stored(int, 1)
    contentsMidLineWidth = stored(int, 0)
    flat = stored(bool, False)
    buttonTextAlignment = stored(int, 0x84)
    indicatorAlignment = stored(int, 0x81)

    def _contents(self) -> list[QtWidgets.QWidget]:
        return [child for child in self.children() if isinstance(child, QtWidgets.QWidget) and not child.isWindow()]

    def _bar_height(self) -> int:
        return max(self.fontMetrics().height() + 8, 24)

    def _limit_height(self) -> None:
        self.setMaximumHeight(self._bar_height() if self._collapsed else 16777215)
        self.updateGeometry()

    def _hide_contents(self) -> None:
        for child in self._contents() if self._collapsed else ():
            if child not in self._shown_before:
                # A child that was never explicitly shown or hidden would be shown by its layout.
                decided = child.testAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide)
                self._shown_before[child] = not (decided and child.isHidden())
                child.hide()

    def childEvent(self, event: QtCore.QChildEvent) -> None:  # noqa: N802
        """Hide what is added while the section is collapsed."""
        if event.added() and self._collapsed:
            # The child is not complete yet: looking at it now would make PySide treat it as a plain widget for good.
            QtCore.QMetaObject.invokeMethod(self, "hide_new", QtCore.Qt.ConnectionType.QueuedConnection)
        super().childEvent(event)

    @QtCore.Slot()
    def hide_new(self) -> None:
        """Hide what was added."""
        self._hide_contents()

    def showEvent(self, event: QtGui.QShowEvent) -> None:  # noqa: N802
        """Hide the contents of a collapsed section before they flash up."""
        self._hide_contents()
        super().showEvent(event)

    def sizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Size of the title bar, and of the contents unless they are hidden."""
        width = self.fontMetrics().horizontalAdvance(self.text()) + _INDICATOR + 24
        if self._collapsed or self.layout() is None:
            return QtCore.QSize(width, self._bar_height())
        inner = self.layout().totalSizeHint()
        return QtCore.QSize(max(width, inner.width()), inner.height())

    def minimumSizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Size of the title bar, and the minimum size of the contents unless they are hidden."""
        if self._collapsed or self.layout() is None:
            return QtCore.QSize(_INDICATOR, self._bar_height())
        return self.layout().totalMinimumSize()

    def hitButton(self, position: QtCore.QPoint) -> bool:  # noqa: N802
        """Whether a position is on the title bar, the only part that can be pressed."""
        return position.y() < self._bar_height()

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:  # noqa: N802
        """Draw a title bar with an arrow."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), self._bar_height())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (self._bar_height() - _INDICATOR) // 2, _INDICATOR, _INDICATOR)
        primitive = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            primitive.PE_IndicatorArrowRight if self._collapsed else primitive.PE_IndicatorArrowDown, arrow
        )
        role = QtGui.QPalette.ColorRole.ButtonText
        text_rect = QtCore.QRect(_INDICATOR + 12, 0, self.width() - _INDICATOR - 16, self._bar_height())
        flags = int(QtCore.Qt.AlignmentFlag.AlignVCenter.value | QtCore.Qt.AlignmentFlag.AlignLeft.value)
        painter.drawItemText(text_rect, flags, self.palette(), self.isEnabled(), self.text(), role)


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):  # noqa: N801
    """A group box that hides its contents when it is unchecked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.setCheckable(True)
        self._shown_before: dict[QtWidgets.QWidget, bool] = {}
        self.toggled.connect(self._show_contents)

    collapsed = computed(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))
    collapsedHeight = stored(int, 14)

    def _show_contents(self, shown: bool) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                if not shown:
                    self._shown_before[child] = not child.isHidden()
                child.setVisible(shown and self._shown_before.get(child, True))


class ctkComboBox(QtWidgets.QComboBox):  # noqa: N801
    """A combo box with a text for no choice."""

    returnRelease = QtCore.Signal()
    defaultText = computed(str, lambda self: self.placeholderText(), lambda self, text: self.setPlaceholderText(text))
    currentUserDataAsString = computed(
        str,
        lambda self: str(self.currentData() or ""),
        lambda self, text: self.setCurrentIndex(self.findData(text)),
    )
    elideMode = stored(int, 3)
    forceDefault = stored(bool, False)
    scrollWheelEffect = stored(int, 1)

    def setCurrentUserDataAsString(self, text: str) -> None:  # noqa: N802
        """Choose the item with this user data."""
        self.setCurrentIndex(self.findData(text))


class ctkCheckableComboBox(QtWidgets.QComboBox):  # noqa: N801
    """A combo box whose items are checked."""

    checkedIndexesChanged = QtCore.Signal()
    returnRelease = QtCore.Signal()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.model().rowsInserted.connect(self._make_checkable)
        self.model().itemChanged.connect(self._checked)

    def _make_checkable(self, _parent: QtCore.QModelIndex, first: int, last: int) -> None:
        blocked = self.model().blockSignals(True)
        for row in range(first, last + 1):
            item = self.model().item(row)
            item.setCheckable(True)
            item.setCheckState(QtCore.Qt.CheckState.Unchecked)
        self.model().blockSignals(blocked)

    def _checked(self, _item: QtGui.QStandardItem) -> None:
        self.checkedIndexesChanged.emit()

    def checkableModel(self) -> QtCore.QAbstractItemModel:  # noqa: N802
        """The model of the items."""
        return self.model()

    def checkState(self, index: QtCore.QModelIndex) -> QtCore.Qt.CheckState:  # noqa: N802
        """Check state of an item."""
        return self.model().itemFromIndex(index).checkState()

    def setCheckState(self, index: QtCore.QModelIndex, state: QtCore.Qt.CheckState) -> None:  # noqa: N802
        """Set the check state of an item."""
        self.model().itemFromIndex(index).setCheckState(state)

    def checkedIndexes(self) -> list[QtCore.QModelIndex]:  # noqa: N802
        """Indexes of the checked items."""
        rows = (self.model().index(row, 0) for row in range(self.count()))
        return [index for index in rows if self.checkState(index) == QtCore.Qt.CheckState.Checked]

    def allChecked(self) -> bool:  # noqa: N802
        """Whether every item is checked."""
        return len(self.checkedIndexes()) == self.count()

    def noneChecked(self) -> bool:  # noqa: N802
        """Whether no item is checked."""
        return not self.checkedIndexes()


class ctkPushButton(QtWidgets.QPushButton):  # noqa: N801
    """A push button."""

    elideMode = stored(int, 3)
    buttonTextAlignment = stored(int, 0x84)
    iconAlignment = stored(int, 0x81)


class ctkCheckablePushButton(ctkPushButton):  # noqa: N801
    """A push button with a check box."""


class ctkMenuButton(ctkPushButton):  # noqa: N801
    """A push button with a menu beside it."""


class ctkDirectoryButton(QtWidgets.QWidget):  # noqa: N801
    """A button that shows a folder and lets the user choose another one."""

    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, *args: Any) -> None:
        texts = [arg for arg in args if isinstance(arg, str)]
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._button = QtWidgets.QPushButton(self)
        self._button.setIcon(self.style().standardIcon(QtWidgets.QStyle.StandardPixmap.SP_DirIcon))
        self._button.clicked.connect(self.browse)
        layout.addWidget(self._button)
        self._folder = ""
        self._set_directory(texts[0] if texts else ".")

    def _set_directory(self, folder: str) -> None:
        absolute = QtCore.QDir(folder).absolutePath()
        if absolute != self._folder:
            self._folder = absolute
            self._button.setText(absolute)
            self.directoryChanged.emit(absolute)

    def browse(self) -> None:
        """Let the user choose."""
        raise RuntimeError("ctkDirectoryButton.browse waits for a user: set the directory instead.")

    directory = computed(str, lambda self: self._folder, _set_directory)
    caption = stored(str, "")
    acceptMode = stored(int, 0)
    options = stored(int, 1)
    elideMode = stored(int, 3)


class ctkPathLineEdit(QtWidgets.QWidget):  # noqa: N801
    """An editable path with its history and a button to browse."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, *args: Any) -> None:
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setMinimumWidth(60)
        self._combo.editTextChanged.connect(self._edited)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setText("...")
        self._browse.clicked.connect(self.browse)
        layout.addWidget(self._combo)
        layout.addWidget(self._browse)
        self._valid = False

    def _edited(self, text: str) -> None:
        # Without name filters, CTK only reports texts that match ".+".
        valid = bool(text)
        if valid:
            self.currentPathChanged.emit(text)
        if valid != self._valid:
            self._valid = valid
            self.validInputChanged.emit(valid)

    def setCurrentPath(self, path: str) -> None:  # noqa: N802
        """Show a path."""
        self._combo.setEditText(path)

    def addCurrentPathToHistory(self) -> None:  # noqa: N802
        """Offer the path in the list, now and after a restart."""
        if self._combo.currentText() and self._combo.findText(self._combo.currentText()) < 0:
            text = self._combo.currentText()
            self._combo.insertItem(0, text)
            self._combo.setEditText(text)
            if self.settingKey:
                QtCore.QSettings().setValue(self.settingKey, self._history())

    def retrieveHistory(self) -> None:  # noqa: N802
        """Fill the list with the paths chosen before."""
        stored_paths = QtCore.QSettings().value(self.settingKey, []) if self.settingKey else []
        paths = [stored_paths] if isinstance(stored_paths, str) else list(stored_paths or [])
        self._combo.clear()
        self._combo.addItems(paths)

    def _history(self) -> list[str]:
        return [self._combo.itemText(index) for index in range(self._combo.count())]

    def comboBox(self) -> QtWidgets.QComboBox:  # noqa: N802
        """The part that is edited."""
        return self._combo

    def browse(self) -> None:
        """Let the user choose."""
        raise RuntimeError("ctkPathLineEdit.browse waits for a user: set currentPath instead.")

    currentPath = computed(str, lambda self: self._combo.currentText(), setCurrentPath)
    filters = stored(int, 0x2003)
    options = stored(int, 0)
    nameFilters = stored("QStringList", [])
    label = stored(str, "")
    settingKey = stored(str, "", "retrieveHistory")
    minimumContentsLength = stored(int, 0)
    sizeAdjustPolicy = stored(int, 1)
    showBrowseButton = computed(
        bool, lambda self: not self._browse.isHidden(), lambda self, shown: self._browse.setVisible(shown)
    )
    showHistoryButton = stored(bool, True)


for _filter in QtCore.QDir.Filter:
    # CTK's filters have the names and values of QDir's.
    setattr(ctkPathLineEdit, _filter.name, _filter)


class ctkDoubleSpinBox(QtWidgets.QWidget):  # noqa: N801
    """A spin box for numbers."""

    valueChanged = QtCore.Signal(float)
    textOfValueChanged = QtCore.Signal(str)
    decimalsChanged = QtCore.Signal(int)
    editingFinished = QtCore.Signal()
    SIGNALS: ClassVar = {"valueChanged(QString)": "textOfValueChanged"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._spin = QtWidgets.QDoubleSpinBox(self)
        self._spin.valueChanged.connect(self.valueChanged)
        self._spin.textChanged.connect(self.textOfValueChanged)
        self._spin.editingFinished.connect(self.editingFinished)
        layout.addWidget(self._spin)

    value = delegated(float, "_spin", "value")
    minimum = delegated(float, "_spin", "minimum")
    maximum = delegated(float, "_spin", "maximum")
    singleStep = delegated(float, "_spin", "singleStep")
    decimals = delegated(int, "_spin", "decimals")
    prefix = delegated(str, "_spin", "prefix")
    suffix = delegated(str, "_spin", "suffix")
    readOnly = computed(bool, lambda self: self._spin.isReadOnly(), lambda self, value: self._spin.setReadOnly(value))
    cleanText = computed(str, lambda self: self._spin.cleanText())

    def setValue(self, value: float) -> None:  # noqa: N802
        """Show a value."""
        self._spin.setValue(value)

    def setDecimals(self, decimals: int) -> None:  # noqa: N802
        """Digits behind the point."""
        self._spin.setDecimals(decimals)

    def setReadOnly(self, read_only: bool) -> None:  # noqa: N802
        """Whether the user can't edit it."""
        self._spin.setReadOnly(read_only)

    def stepUp(self) -> None:  # noqa: N802
        """One step up."""
        self._spin.stepUp()

    def stepDown(self) -> None:  # noqa: N802
        """One step down."""
        self._spin.stepDown()


class ctkSliderWidget(QtWidgets.QWidget):  # noqa: N801
    """A slider with a spin box, for numbers."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._spin = QtWidgets.QDoubleSpinBox(self)
        self._spin.setMaximum(99.0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._spun)
        self._slider.valueChanged.connect(self._slid)
        self._limit()

    def _limit(self) -> None:
        steps = round((self._spin.maximum() - self._spin.minimum()) / self._spin.singleStep())
        blocked = self._slider.blockSignals(True)
        self._slider.setRange(0, max(0, steps))
        self._slider.setValue(self._position())
        self._slider.blockSignals(blocked)

    def _position(self) -> int:
        return round((self._spin.value() - self._spin.minimum()) / self._spin.singleStep())

    def _spun(self, value: float) -> None:
        blocked = self._slider.blockSignals(True)
        self._slider.setValue(self._position())
        self._slider.blockSignals(blocked)
        self.valueChanged.emit(value)

    def _slid(self, position: int) -> None:
        self._spin.setValue(self._spin.minimum() + position * self._spin.singleStep())

    def setValue(self, value: float) -> None:  # noqa: N802
        """Show a value."""
        self._spin.setValue(value)

    def setDecimals(self, decimals: int) -> None:  # noqa: N802
        """Digits behind the point."""
        self._spin.setDecimals(decimals)

    def setSpinBoxVisible(self, visible: bool) -> None:  # noqa: N802
        """Show or hide the number."""
        self._spin.setVisible(visible)

    def reset(self) -> None:
        """Back to zero."""
        self._spin.setValue(0.0)

    def _set_minimum(self, value: float) -> None:
        self._spin.setMinimum(value)
        self._limit()

    def _set_maximum(self, value: float) -> None:
        self._spin.setMaximum(value)
        self._limit()

    def _set_step(self, value: float) -> None:
        self._spin.setSingleStep(value)
        self._limit()

    value = delegated(float, "_spin", "value")
    minimum = computed(float, lambda self: self._spin.minimum(), _set_minimum)
    maximum = computed(float, lambda self: self._spin.maximum(), _set_maximum)
    singleStep = computed(float, lambda self: self._spin.singleStep(), _set_step)
    pageStep = stored(float, 10.0)
    tickInterval = stored(float, 0.0)
    decimals = delegated(int, "_spin", "decimals")
    prefix = delegated(str, "_spin", "prefix")
    suffix = delegated(str, "_spin", "suffix")
    tracking = stored(bool, True)
    spinBoxVisible = computed(
        bool, lambda self: not self._spin.isHidden(), lambda self, shown: self._spin.setVisible(shown)
    )


class ctkRangeWidget(QtWidgets.QWidget):  # noqa: N801
    """Two numbers, the second not below the first."""

    valuesChanged = QtCore.Signal(float, float)
    minimumValueChanged = QtCore.Signal(float)
    maximumValueChanged = QtCore.Signal(float)
    minimumValueIsChanging = QtCore.Signal(float)
    maximumValueIsChanging = QtCore.Signal(float)
    rangeChanged = QtCore.Signal(float, float)

    def __init__(self, *args: Any) -> None:
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = QtWidgets.QDoubleSpinBox(self), QtWidgets.QDoubleSpinBox(self)
        self._high.setValue(self._high.maximum())
        for spin in (self._low, self._high):
            layout.addWidget(spin)
        self._low.valueChanged.connect(self._low_changed)
        self._high.valueChanged.connect(self._high_changed)

    def _low_changed(self, value: float) -> None:
        self._high.setMinimum(value)
        self.minimumValueChanged.emit(value)
        self.valuesChanged.emit(value, self._high.value())

    def _high_changed(self, value: float) -> None:
        self._low.setMaximum(value)
        self.maximumValueChanged.emit(value)
        self.valuesChanged.emit(self._low.value(), value)

    def setRange(self, minimum: float, maximum: float) -> None:  # noqa: N802
        """Limits of both."""
        self._low.setRange(minimum, min(maximum, max(self._high.value(), minimum)))
        self._high.setRange(max(minimum, self._low.value()), maximum)
        self.rangeChanged.emit(minimum, maximum)

    def setValues(self, low: float, high: float) -> None:  # noqa: N802
        """Show two numbers."""
        # Each limits the other, so room is made first.
        self._low.setMaximum(self._high.maximum())
        self._high.setMinimum(self._low.minimum())
        self._low.setValue(low)
        self._high.setValue(high)

    def setMinimumValue(self, value: float) -> None:  # noqa: N802
        """Show the lower number."""
        self._low.setValue(value)

    def setMaximumValue(self, value: float) -> None:  # noqa: N802
        """Show the higher number."""
        self._high.setValue(value)

    def setDecimals(self, decimals: int) -> None:  # noqa: N802
        """Digits behind the point."""
        for spin in (self._low, self._high):
            spin.setDecimals(decimals)

    minimumValue = delegated(float, "_low", "value")
    maximumValue = delegated(float, "_high", "value")
    minimum = delegated(float, "_low", "minimum")
    maximum = delegated(float, "_high", "maximum")
    decimals = computed(int, lambda self: self._low.decimals(), setDecimals)
    singleStep = delegated(float, "_low", "singleStep")
    suffix = delegated(str, "_low", "suffix")
    prefix = delegated(str, "_low", "prefix")


class ctkSearchBox(QtWidgets.QLineEdit):  # noqa: N801
    """A line edit to search with."""

    showSearchIcon = stored(bool, False)


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):  # noqa: N801
    """A text browser that is as high as its text."""

    collapsed = stored(bool, True)
    disableMouseScroll = stored(bool, False)
    showDetailsText = stored(str, "Show details...")
    hideDetailsText = stored(str, "Hide details.")

    def sizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Size of the text."""
        return QtCore.QSize(super().sizeHint().width(), round(self.document().size().height()) + 4)

    def setCollapsibleText(self, text: str) -> None:  # noqa: N802
        """Show a text."""
        self.setText(text)


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """A message box with an option not to be shown again."""

    dontShowAgain = stored(bool, False)
    dontShowAgainVisible = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")


NATIVES = {name: found for name, found in list(globals().items()) if name.startswith("ctk") and isinstance(found, type)}


def make_ctk() -> ClassModule:
    """The module `ctk`."""
    return ClassModule("ctk", NATIVES)
